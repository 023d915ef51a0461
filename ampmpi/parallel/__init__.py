"""MPI: the launch, the communicator, the schedule, failures and the log."""
