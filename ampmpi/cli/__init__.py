"""The ``ampmpi`` command: one module per subcommand, imported when it is asked for.

Nothing is imported here, so that `main` can take signals first of all.
"""
