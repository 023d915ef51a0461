"""A process that compresses."""

from ampmpi.database.compress import compress as compress_database


def compress(path):
    """Compress a database."""
    yield
    compress_database(path)
