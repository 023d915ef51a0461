"""What an error of the system means."""

import errno
import os

import pytest

from ampmpi.files.trouble import (
    database_error,
    is_damage,
    is_of_one_file,
    reason_of,
    unless_damaged,
)


def failure(code):
    return OSError(code, os.strerror(code))


PLACE = ["EIO", "ENODATA", "EREMOTEIO", "EILSEQ", "EUCLEAN", "EBADMSG"]
FILE = ["EACCES", "EPERM", "ELOOP", "EISDIR", "ENXIO", "ENODEV", "EFBIG", "EOVERFLOW"]
ALL = ["EMFILE", "ENFILE", "ENOMEM", "ESTALE", "ETIMEDOUT", "ENOTCONN", "ENOSPC", "EINTR"]


@pytest.mark.parametrize("name", PLACE + FILE + ALL)
def test_what_an_error_concerns(name):
    error = failure(getattr(errno, name))
    assert is_damage(error) == (name in PLACE)
    assert is_of_one_file(error) == (name in PLACE + FILE)
    if name in PLACE:
        with unless_damaged() as found:
            raise error
        assert found == [reason_of(error)]
    else:
        with pytest.raises(OSError, match=r".") as caught, unless_damaged(EOFError):
            raise error
        assert caught.value is error


def test_an_error_of_which_nothing_is_known_stops_the_work():
    assert not is_damage(OSError("odd")) and not is_of_one_file(OSError("odd"))
    assert "odd" in str(database_error(OSError("odd"), "read", "/x"))
    assert reason_of(OSError("odd")) == "odd"


def test_other_damage_is_named_by_who_asks():
    with unless_damaged(EOFError) as found:
        raise EOFError("short")
    assert str(found[0]) == "short"
    with pytest.raises(EOFError), unless_damaged():
        raise EOFError
    with unless_damaged() as found:
        pass
    assert found == []


@pytest.mark.parametrize(
    ("code", "doing", "words"),
    [
        ("EACCES", "read", "ask its owner"),
        ("EACCES", "write", "choose a place that you may write to"),
        ("EPERM", "list", "ask its owner"),
        ("EROFS", "write", "read-only"),
        ("EDQUOT", "write", "quota"),
        ("EIO", "read", "the disk reports an input/output error"),
        ("EMFILE", "read", "ulimit -n"),
        ("EXDEV", "write", "cross-device"),
    ],
)
def test_sentences_say_what_where_and_why(code, doing, words):
    error = database_error(failure(getattr(errno, code)), doing, "/some/file")
    assert str(error).startswith(f"cannot {doing} /some/file: ")
    assert words in str(error)
    assert "[Errno" not in str(error)
    assert error.errno == getattr(errno, code)


@pytest.mark.parametrize(
    ("n_files", "free_files", "free_blocks", "inodes"),
    [(500, 0, 800, True), (500, 0, 0, False), (500, 7, 0, False), (0, 0, 800, False)],
)
def test_a_full_disk_is_told_from_one_without_inodes(
    tmp_path, monkeypatch, n_files, free_files, free_blocks, inodes
):
    def statvfs(path):
        fields = (4096, 4096, 900, free_blocks, free_blocks, n_files, free_files, free_files)
        return os.statvfs_result((*fields, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    error = database_error(failure(errno.ENOSPC), "write", str(tmp_path / "new"))
    assert ("inodes" in str(error)) == inodes
    assert ("the disk is full" in str(error)) != inodes
