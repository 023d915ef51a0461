"""Marks that hide the archive's copy of a deleted key until the next compress.

A mark is an empty file ``deleted/<key>``. It says that the copy in the archive
is gone; a loose entry is not touched by it.

Deleting sets the mark, removes the loose entry, and sets the mark anew, also
where the archive lacks the key: a compress that is under way may just be adding
it. The first mark tells an uncompress not to make the entry loose again. The
second one is later than any look at the loose entry: a compress that saw both
the first mark and the loose entry does not take it away.

A compress reads the marks before it lists the loose entries, and leaves out the
old copies of marked keys. After the new archive is in place it takes away those
marks that are still the ones it has read, and then removes loose entries, but
none of a key that is still marked: such a key was deleted meanwhile, perhaps
written again, and what the compress has just archived of it stays hidden.
Killed at any point, a compress leaves too many marks at worst, next to the loose
entries that they do not hide.

Who looks into the archive reads the mark first: once it is taken away, the
archive that is there no longer has the old copy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from ampmpi.database.aside import move_as_read
from ampmpi.database.intake import Stamp, stamp_of
from ampmpi.database.layout import Layout
from ampmpi.errors import DatabaseError
from ampmpi.files.atomic import database_error, temporary_name, write_file
from ampmpi.keys import is_key


def mark(layout: Layout, key: str) -> None:
    """Set the mark of a key, anew where there is one.

    Raises
    ------
    DatabaseError
        It cannot be set.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(layout.deleted)
        write_file(layout.temporaries, layout.deleted_mark(key), b"", "delete")
    except FileNotFoundError as error:
        raise database_error(error, "write", layout.deleted_mark(key)) from error
    except OSError as error:
        if isinstance(error, DatabaseError):
            raise
        raise database_error(error, "create", layout.deleted) from error


def marked(layout: Layout) -> dict[str, Stamp]:
    """Return the marked keys, and what tells each mark from a later one of the same key.

    Raises
    ------
    DatabaseError
        The marks cannot be read.
    """
    marks = {}
    try:
        for name in filter(is_key, os.listdir(layout.deleted)):
            with contextlib.suppress(FileNotFoundError):
                marks[name] = stamp_of(os.lstat(layout.deleted_mark(name)))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise database_error(error, "list", layout.deleted) from error
    return marks


def is_marked(layout: Layout, key: str) -> bool:
    """Whether the archive's copy of a key is hidden.

    Raises
    ------
    DatabaseError
        It cannot be known.
    """
    try:
        os.lstat(layout.deleted_mark(key))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise database_error(error, "look for", layout.deleted_mark(key)) from error
    return True


def unmark(layout: Layout, marks: Mapping[str, Stamp]) -> None:
    """Take away marks that are still those that `marked` returned."""
    for key, stamp in marks.items():
        path = layout.deleted_mark(key)
        aside = f"{layout.temporaries}/{temporary_name('delete')}"
        with contextlib.suppress(OSError):
            # The second look finds a key that is deleted again at this moment.
            if stamp_of(os.lstat(path)) == stamp and move_as_read(path, aside, stamp):
                os.unlink(aside)
