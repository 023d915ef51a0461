"""Setting aside what is damaged: nothing is thrown away that somebody may want to look at."""

from __future__ import annotations

import os
import shutil

from ampmpi.database.layout import Layout


def set_aside(layout: Layout, path: str, name: str) -> str:
    """Move a file to ``damaged/``, under a name that is free there; return its new path."""
    target = _free_name(layout, name)
    os.rename(path, target)
    return target


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
