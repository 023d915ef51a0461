"""Directories that are held open."""

import errno
import os
import time

import pytest
from entry_samples import SPECIAL, make_special, open_files

from ampmpi.files.folder import Folder, NotRegularError, Stamp


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return Folder.open(str(tmp_path / "folder"))


def make(folder, name, data=b"x"):
    with open(folder.full(name), "wb") as file:
        file.write(data)
    return Stamp.of(folder.status(name))


def test_reading_gives_content_and_stamp(folder):
    for data in (b"", b"one", bytes(3 << 20)):
        stamp = make(folder, "file", data)
        assert folder.read("file", 4 << 20) == (data, stamp)
    assert folder.names() == ["file"]
    assert folder.has("file") and folder.is_regular("file")
    assert not folder.has("none") and not folder.is_regular("none")
    with pytest.raises(FileNotFoundError):
        folder.read("none", 10)


def test_what_is_too_large_is_not_read(folder):
    make(folder, "file", b"12345")
    assert folder.read("file", 5)[0] == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes") as caught:
        folder.read("file", 4)
    assert caught.value.errno == errno.EFBIG
    os.truncate(folder.full("file"), 1 << 40)
    started = time.monotonic()
    with pytest.raises(OSError, match="more than"):
        folder.read("file", 1 << 20)
    assert time.monotonic() - started < 5


def test_a_file_that_is_handed_out_in_parts_or_grows(folder, monkeypatch):
    data = bytes(range(256)) * 20
    make(folder, "file", data)
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: read(descriptor, min(size, 700)))
    assert folder.read("file", 1 << 20)[0] == data

    def growing(descriptor, size):
        return b"x" * min(size, 700)

    monkeypatch.setattr(os, "read", growing)
    assert len(folder.read("file", 1 << 16)[0]) < 1 << 17


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", SPECIAL)
def test_nothing_but_a_regular_file_is_read(folder, tmp_path, what):
    (tmp_path / "elsewhere").write_bytes(b"secret")
    make_special(what, folder.full("file"), tmp_path / "elsewhere")
    before = open_files()
    with pytest.raises(OSError, match=r".") as caught:
        folder.read("file", 100)
    assert isinstance(caught.value, NotRegularError) == (what in ("pipe", "directory"))
    assert folder.has("file") and not folder.is_regular("file")
    assert open_files() == before


def test_a_folder_is_followed_when_it_is_renamed(folder, tmp_path):
    make(folder, "file", b"mine")
    os.rename(tmp_path / "folder", tmp_path / "renamed")
    (tmp_path / "folder").mkdir()
    assert folder.read("file", 10)[0] == b"mine"
    folder.make("inner")
    folder.rename("file", folder.inner("inner"), "moved")
    folder.inner("inner").unlink("moved")
    assert folder.names() == ["inner"]
    assert os.listdir(tmp_path / "folder") == []
    assert os.listdir(tmp_path / "renamed") == ["inner"]


def test_nothing_can_be_made_in_one_that_was_removed(folder, tmp_path):
    os.rmdir(tmp_path / "folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError):
        folder.make("inner")
    assert os.listdir(tmp_path / "folder") == []


def test_a_link_may_lead_to_a_folder_but_not_inside_of_one(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "folder", tmp_path / "link")
    assert Folder.open(str(tmp_path / "link")).inode == folder.inode
    os.symlink(tmp_path / "elsewhere", folder.full("inner"))
    folder.make("inner")  # there is something: it stays
    with pytest.raises(NotADirectoryError, match="symbolic link"):
        folder.inner("inner")
    make(folder, "file")
    with pytest.raises(NotADirectoryError, match="Not a directory"):
        folder.inner("file")
    with pytest.raises(FileNotFoundError):
        folder.inner("none")
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o2770, 0o2775, 0o3777])
@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_inner_folders_are_made_like_the_outer_one(tmp_path, mode, umask):
    (tmp_path / "folder").mkdir()
    os.chmod(tmp_path / "folder", mode)
    folder = Folder.open(str(tmp_path / "folder"))
    before = os.umask(umask)
    try:
        folder.make("inner")
    finally:
        os.umask(before)
    status = folder.status("inner")
    assert status.st_mode & 0o7777 == mode
    assert status.st_gid == os.stat(tmp_path / "folder").st_gid
    assert folder.file_mode == folder.inner("inner").file_mode == mode & 0o666


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to a group")
def test_inner_folders_have_the_outer_ones_group(folder, tmp_path):
    os.chown(folder.path, -1, 12345)
    again = Folder.open(folder.path)
    again.make("inner")
    assert again.status("inner").st_gid == again.inner("inner").group == 12345


def test_each_listing_begins_anew(folder):
    wanted = {f"file{number}" for number in range(300)}
    for name in wanted:
        make(folder, name)
    with folder.scan() as first:
        next(first)
        with folder.scan() as second:
            assert {entry.name for entry in second} == wanted
        assert len(list(first)) == len(wanted) - 1
    assert set(folder.names()) == wanted


def test_only_what_was_read_is_removed(folder):
    stamp = make(folder, "file", b"one")
    os.utime(folder.full("file"), ns=(1, 1))
    assert not folder.remove_as_read("file", stamp)
    os.rename(folder.full("file"), folder.full("old"))
    stamp = make(folder, "file", b"one")
    assert folder.remove_as_read("file", stamp)
    assert folder.names() == ["old"]
    with pytest.raises(FileNotFoundError):
        folder.remove_as_read("file", stamp)


def test_a_clock_that_is_centuries_ahead(folder):
    make(folder, "file")
    status = folder.status("file")
    far = os.stat_result(
        status[:10], {"st_mtime_ns": 10**20, "st_ino": status.st_ino, "st_size": status.st_size}
    )
    assert 0 <= Stamp.of(far).mtime_ns < 1 << 63


@pytest.mark.parametrize("code", ["EINVAL", "ENOTSUP", "EBADF", "EACCES", "EIO"])
def test_file_systems_that_cannot_sync_a_folder(folder, monkeypatch, code):
    folder.sync()

    def fail(descriptor):
        raise OSError(getattr(errno, code), code)

    monkeypatch.setattr(os, "fsync", fail)
    if code == "EIO":
        with pytest.raises(OSError, match="EIO"):
            folder.sync()
    else:
        folder.sync()


def test_no_descriptor_is_left_open(folder):
    before = open_files()
    make(folder, "file")
    folder.make("inner")
    inner = folder.inner("inner")
    folder.read("file", 10)
    assert inner.names() == []
    inner.close()
    inner.close()
    folder.inner("inner")  # closed when nobody holds it
    assert open_files() == before
