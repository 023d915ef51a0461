"""Archives to test with."""

import numpy as np
from entry_samples import make_entries, make_key

from ampmpi.database.archive import Archive
from ampmpi.database.entry import encode
from ampmpi.database.writer import ArchiveWriter, deflate_entry


class Sink:
    """A file as ArchiveWriter wants it."""

    def __init__(self, path):
        self.file = path.open("wb")

    def write(self, data):
        self.file.write(data)


def make_data(count, n_atoms=3, n_features=4):
    """Return so many encoded fingerprints by key."""
    return {
        make_key(number): encode(make_entries(number, n_atoms, {"Cu": n_features})[0])
        for number in range(count)
    }


def write_archive(path, data, old=None, dropped=()):
    """Write an archive of `data`, and of what `old` has but `dropped`."""
    sink = Sink(path)
    with sink.file:
        writer = ArchiveWriter(sink)
        for key, content in data.items():
            writer.add(deflate_entry(key, content))
        if old is not None:
            with Archive.open(str(old)) as archive:
                keep = np.ones(len(archive.index.offset), bool)
                for key in (*data, *dropped):
                    row = archive.index.row(bytes.fromhex(key))
                    if row is not None:
                        keep[row] = False
                writer.copy(archive, keep)
        return writer.close()
