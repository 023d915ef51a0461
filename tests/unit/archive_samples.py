"""Archives to test with."""

import errno
import os

import numpy as np
from entry_samples import make_entries, make_key

from ampmpi.database.archive.reader import Archive
from ampmpi.database.archive.writer import ArchiveWriter, deflate_entry
from ampmpi.entries.codec import encode


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


def place_of(path, key):
    """Return where the record of an entry begins and ends in an archive."""
    with Archive.open(str(path)) as archive:
        row = archive.index.row(bytes.fromhex(key))
        begin = int(archive.index.offset[row])
        return begin, begin + int(archive.index.packed[row])


def spoil_sector(monkeypatch, path, begin, end, error=errno.EIO, times=1 << 30):
    """Let the disk refuse bytes of a file; a read that begins before them is short, as on Linux."""
    real, spoilt, left = os.pread, os.stat(path), [times]

    def pread(descriptor, size, offset):
        hit = offset < end and begin < offset + size and left[0] > 0
        if hit and os.path.samestat(os.fstat(descriptor), spoilt):
            if offset >= begin:
                left[0] -= 1
                raise OSError(error, os.strerror(error))
            size = begin - offset
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)


def flip(path, position, bits=32):
    """Change bits of one byte of a file."""
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ bits]))


def damage(layout, key):
    """Change a bit in the middle of an archived entry."""
    flip(layout.archive, sum(place_of(layout.archive, key)) // 2)
