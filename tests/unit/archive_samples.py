"""Archives and databases to test with."""

import contextlib
import errno
import io
import os
import shutil
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path

from entry_samples import make_entries, make_key

from ampmpi.database.archive.deflate import gzip_stored
from ampmpi.database.archive.index import FOOTER_SIZE, INDEX_MAGIC
from ampmpi.database.archive.reader import Archive, IndexedArchive
from ampmpi.database.archive.writer import ArchiveWriter, pack
from ampmpi.database.layout import Home
from ampmpi.database.packs import PackLimits, PackWriter
from ampmpi.entries.codec import encode
from ampmpi.files.atomic import temporary_name
from ampmpi.files.folder import Folder
from ampmpi.files.owner import Owner
from ampmpi.keys import to_hex


class Sink:
    """A file as ArchiveWriter wants it."""

    def __init__(self, path):
        self.file = open(path, "wb")  # noqa: SIM115

    def write(self, data):
        self.file.write(data)


def make_data(count, n_atoms=3, n_features=4, element="Cu"):
    """Return so many encoded fingerprints by key."""
    return {
        make_key(number): encode(make_entries(number, n_atoms, {element: n_features})[0])
        for number in range(count)
    }


def write_archive(path, data):
    """Write an archive of `data`."""
    sink = Sink(path)
    with sink.file:
        writer = ArchiveWriter(sink)
        for entry in data.items():
            writer.add(pack([entry]))
        return writer.close()


def open_archive(path):
    """Open an archive by its path."""
    return Archive.open(Folder.open(os.path.dirname(path)), os.path.basename(path))


def keys_of(archive):
    """Keys of an archive's entries, sorted."""
    return to_hex(archive.digests())


def is_indexed(archive):
    """Whether the archive has an index that is used."""
    return isinstance(archive, IndexedArchive)


def records_of(path):
    """Offset and packed size of each entry of an indexed archive by key, in the file's order."""
    with open_archive(path) as archive:
        index = archive.index
        rows = zip(keys_of(archive), index.offset.tolist(), index.packed.tolist(), strict=True)
        return {key: (offset, packed) for key, offset, packed in sorted(rows, key=lambda r: r[1])}


def place_of(path, key):
    """Return where the record of an entry begins and ends in an archive."""
    begin, packed = records_of(path)[key]
    return begin, begin + packed


def add_member(tar, name, content=b"", **fields):
    """Add a member to a tarfile."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


def _write_tar(path, data, form, **fields):
    with tarfile.open(path, "w:gz", format=form) as tar:
        for key, content in data.items():
            add_member(tar, key, content, **fields)


def _write_as_amp(path, data):
    """Amp adds each file of ``loose/`` under its name, by Python's tarfile."""
    _write_tar(path, data, tarfile.DEFAULT_FORMAT, mtime=1.5, mode=0o600, uname="amp")


def _write_as_gnu_tar(path, data):
    folder = Path(f"{path}.files")
    folder.mkdir()
    for key, content in data.items():
        (folder / key).write_bytes(content)
    command = ["tar", "-czf", str(path), "-C", str(folder), "--", *data]
    if not data:
        command = ["tar", "-czf", str(path), "-T", "/dev/null"]
    subprocess.run(command, check=True)


def _write_without_footer(path, data):
    write_archive(path, data)
    os.truncate(path, os.path.getsize(path) - FOOTER_SIZE)


def _write_with_damaged_index(path, data):
    footer = write_archive(path, data)
    flip(path, footer.data_size + 40)


def write_as_0_1(path, data):
    """Write an archive as version 0.1 did: without checksums of deflated records."""
    footer = write_archive(path, data)
    with open_archive(path) as archive:
        index = archive.index
    parts = [struct.pack("<8sQQ", INDEX_MAGIC, len(index.digests), 0), index.digests.tobytes()]
    content = b"".join([*parts, *(column.tobytes() for column in index[1:-1])])
    member = gzip_stored(content)
    footer = footer._replace(index_size=len(member), index_crc=zlib.crc32(content))
    with open(path, "r+b") as file:
        file.seek(footer.data_size)
        file.truncate()
        file.write(member + footer.pack())


def _write_as_pack(path, data):
    """Write an archive as one rank does, entry by entry."""
    database = make_database(f"{path}.made-fingerprints")
    put_packs(database, data)
    if not data:  # a writer makes no empty pack
        write_archive(path, data)
        return
    (name,) = names(database, "packs")
    os.rename(f"{database}/packs/{name}", path)
    shutil.rmtree(database)


ARCHIVES = {
    "indexed": write_archive,
    "pack": _write_as_pack,
    "0.1": write_as_0_1,
    "without footer": _write_without_footer,
    "damaged index": _write_with_damaged_index,
    "Amp": _write_as_amp,
    "GNU tar": _write_as_gnu_tar,
    "ustar": lambda path, data: _write_tar(path, data, tarfile.USTAR_FORMAT, mtime=1),
    "pax": lambda path, data: _write_tar(path, data, tarfile.PAX_FORMAT, mtime=1.5),
    "old GNU": lambda path, data: _write_tar(path, data, tarfile.GNU_FORMAT, mtime=1),
}
"""How the archives of each kind are written: each is whole, and all are read alike."""

INDEXED = ("indexed", "pack", "0.1")
"""Those that have an index."""


def make_database(path):
    """Make an empty database; return its path."""
    return Path(Home.create(path).path)


def put(database, data, age=3600.0):
    """Write loose files of any content, that were written some time ago."""
    for key, content in data.items():
        path = f"{database}/loose/{key}"
        with open(path, "wb") as file:
            file.write(content)
        set_age(path, age)


def put_packs(database, data, count=1, age=3600.0):
    """Write entries into so many packs, each of which is a minute younger than the one before."""
    before = names(database, "packs")
    writer = PackWriter(Home.create(database))
    for some in range(count):
        for key in list(data)[some::count]:
            writer.put_bytes(key, data[key])
        writer.close()
        if not data:
            continue
        (new,) = set(names(database, "packs")).difference(before)
        before.append(new)
        set_age(f"{database}/packs/{new}", age - 60 * some)


def put_open_pack(database, data, name=None):
    """Leave the unfinished pack of a writer that has ended; return its name."""
    before = names(database, "tmp")
    writer = PackWriter(Home.create(database), limits=PackLimits(1 << 62, 1e9))
    for key, content in data.items():
        writer.put_bytes(key, content)
    (new,) = set(names(database, "tmp")).difference(before)
    name = name or dead_name("pack")
    os.rename(f"{database}/tmp/{new}", f"{database}/tmp/{name}")
    return name


def set_age(path, age=3600.0):
    """Let a file have been written some time ago."""
    status = os.stat(path)
    os.utime(path, (status.st_atime - age, status.st_mtime - age))


def archived(database):
    """Return the entries of a database's archive, which must have its index."""
    with open_archive(f"{database}/archive.tar.gz") as archive:
        assert is_indexed(archive) and archive.damage is None
        return dict(archive.read_many())


def dead_name(purpose):
    """Return the name of a temporary whose writer has ended."""
    me = Owner.me()
    mine = f"-{me.pid}-{me.start}-"
    return temporary_name(purpose).replace(mine, f"-{me.pid}-{me.start + 1}-")


def names(database, *folders):
    """Names in a folder of a database, sorted; none where there is no such folder."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(os.listdir(os.path.join(database, *folders)))
    return []


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


def damage_archived(database, key):
    """Change a bit in the middle of an archived entry."""
    archive = f"{database}/archive.tar.gz"
    flip(archive, sum(place_of(archive, key)) // 2)


def damage_packed(database, key):
    """Change a bit in the middle of an entry in the pack that has it."""
    for name in names(database, "packs"):
        pack = f"{database}/packs/{name}"
        if key in records_of(pack):
            status = os.stat(pack)
            flip(pack, sum(place_of(pack, key)) // 2)
            os.utime(pack, ns=(status.st_atime_ns, status.st_mtime_ns))


def damage_loose(database, key):
    """Change a bit of a loose entry, an hour ago."""
    path = f"{database}/loose/{key}"
    flip(path, 60)
    set_age(path)
