"""Several files that belong together, in a folder of the user's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ampmpi.errors import FileError, InputError
from ampmpi.files.whole import write_whole


def require_room(folder: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise `InputError` unless a folder is empty, or not there, or may hold other files."""
    path = Path(folder)
    try:
        taken = path.is_dir() and any(path.iterdir())
    except OSError as error:
        raise InputError(f"{path} cannot be used: {error.strerror}; give another folder") from error
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: give a folder")
    if taken and not overwrite:
        raise InputError(
            f"{path} is there already, with files in it: give another folder, or --overwrite "
            "(overwrite=True in a script)"
        )


def write_folder(
    folder: str | os.PathLike[str], files: Mapping[str, str], *, last: str, overwrite: bool
) -> list[str]:
    """Write files into a folder, all of them or none; return their names.

    They are written elsewhere first, so that a full disk leaves what was there. Then they are
    renamed, the file `last`, without which the others are of no use, at the end: files of two
    potentials are never taken for one.

    Raises
    ------
    InputError
        The folder holds something already, and `overwrite` is not set; it is a file, or cannot
        be made.
    FileError
        The files cannot be written.
    """
    require_room(folder, overwrite=overwrite)
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{target} cannot be made: {error.strerror}; give another folder"
        ) from error
    try:
        with tempfile.TemporaryDirectory(prefix=".new-", dir=target) as new:
            for name, text in files.items():
                write_whole(Path(new, name), text.encode())
            (target / last).unlink(missing_ok=True)
            for name in sorted(files, key=lambda name: name == last):
                Path(new, name).replace(target / name)
    except OSError as error:
        raise FileError(
            f"{target} cannot be written: {error.strerror}; give another folder"
        ) from error
    return [str(target / name) for name in files]
