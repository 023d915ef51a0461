"""Setting aside what is damaged: nothing is thrown away that somebody may want to look at."""

from __future__ import annotations

import os
import shutil
import time

from ampmpi.database.intake import Stamp, stamp_of
from ampmpi.database.layout import Layout

YOUNG = 60.0
"""Seconds during which a bad loose file may still be in the making: Amp writes in place."""


def is_young(stamp: Stamp) -> bool:
    """Whether a file was written to a moment ago, give or take what clocks differ by."""
    return abs(time.time() - stamp.mtime_ns / 1e9) < YOUNG


def set_aside(layout: Layout, path: str, name: str) -> str:
    """Move a file to ``damaged/``, under a name that is free there; return its new path."""
    target = _free_name(layout, name)
    os.rename(path, target)
    return target


def set_aside_as_read(layout: Layout, path: str, stamp: Stamp) -> str | None:
    """Move a file to ``damaged/`` if it is still the one that was found to be damaged.

    Parameters
    ----------
    path : str
        The file.
    stamp : Stamp
        What it was when it was read.

    Returns
    -------
    str or None
        Its new path; None if the file was written again or removed meanwhile.

    Raises
    ------
    OSError
        It cannot be moved, and is still there.
    """
    try:
        if stamp_of(os.lstat(path)) != stamp:
            return None
        target = _free_name(layout, os.path.basename(path))
        return target if move_as_read(path, target, stamp) else None
    except FileNotFoundError:
        return None


def move_as_read(path: str, target: str, stamp: Stamp) -> bool:
    """Move a file, and give it back if it turns out to be another one than was read.

    Raises
    ------
    OSError
        It is not there, or cannot be moved.
    """
    os.rename(path, target)
    if stamp_of(os.lstat(target)) == stamp:
        return True
    # Another writer was quicker: what was moved is its file, unless there is a newer one yet.
    try:
        os.link(target, path)
    except OSError:
        if not os.path.lexists(path):
            # A file system without hard links.
            os.rename(target, path)
            return False
    os.unlink(target)
    return False


def keep_copy(layout: Layout, path: str) -> str:
    """Give a file a second name in ``damaged/``, or copy it where that is not possible."""
    target = _free_name(layout, os.path.basename(path))
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)
    return target


def _free_name(layout: Layout, name: str) -> str:
    os.makedirs(layout.damaged, exist_ok=True)
    number, target = 1, f"{layout.damaged}/{name}"
    while os.path.lexists(target):
        number += 1
        target = f"{layout.damaged}/{name}.{number}"
    return target
