"""Everything that knows about ranks: starting, talking, sharing out, failing, logging.

Nothing is imported here, so that `parallel.launch` can catch a signal before
numpy, ASE or MPI have been loaded.
"""
