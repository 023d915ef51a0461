"""Archives to damage."""

from ampmpi.database.archive.writer import ArchiveWriter, pack


class Sink:
    """A file as ArchiveWriter wants it."""

    def __init__(self, file):
        self.file = file

    def write(self, data):
        self.file.write(data)


def write_archive(path, data):
    """Write an archive of entries by key; return its footer."""
    with open(path, "wb") as file:
        writer = ArchiveWriter(Sink(file))
        for key, content in data.items():
            writer.add(pack([(key, content)]))
        return writer.close()
