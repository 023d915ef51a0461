"""Everything that knows about ranks: launch, communication, schedule, failure, logging.

Nothing is imported here, so that `parallel.launch` can catch a signal before
numpy, ASE or MPI are loaded.
"""
