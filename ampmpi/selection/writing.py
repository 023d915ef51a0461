"""Images with the spread of their forces, as files: appended one by one, or written whole.

They carry no energy and no forces: those of a committee must not be taken for references.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import FileError, ImageFileError, InputError
from ampmpi.files.whole import write_whole
from ampmpi.images.files import describe, frame_offsets

if TYPE_CHECKING:
    from ase import Atoms

XYZ = (".xyz", ".extxyz")
TRAJECTORY = ".traj"


def check_name(path: str | os.PathLike[str]) -> str:
    """Return a name whose ending says how to write images; `InputError` for any other."""
    name = os.fspath(path)
    if not name.endswith((*XYZ, TRAJECTORY)):
        raise InputError(
            f"{name}: images are written as extended XYZ or as ASE's trajectory; give a name that "
            "ends in .extxyz, .xyz or .traj"
        )
    if Path(name).is_dir():
        raise InputError(f"{name} cannot be written: it is a folder; name a file")
    if not Path(name).absolute().parent.is_dir():
        raise InputError(f"{name} cannot be written: there is no folder {Path(name).parent}")
    return name


def with_spreads(atoms: Atoms, spreads: NDArray[np.float64], **info: Any) -> Atoms:
    """Return a copy of an image, without calculator, that carries the spreads of its forces.

    Parameters
    ----------
    atoms : Atoms
        The image; positions and velocities stay as they are, constraints and what its `info`
        and arrays of other kinds hold do not.
    spreads : (n_atoms,) float array, eV/Å
        The spread of each atom's force; kept as the array ``forces_spread``, the largest one
        as ``info["largest_spread"]``.
    **info
        More for `info`.
    """
    from ase import Atoms

    image = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    for name in ("momenta", "tags", "initial_magmoms", "initial_charges"):
        if atoms.has(name):  # type: ignore[no-untyped-call]
            image.set_array(name, atoms.arrays[name])  # type: ignore[no-untyped-call]
    image.info.update(info)
    image.info["largest_spread"] = float(np.max(spreads, initial=0.0))
    image.arrays["forces_spread"] = np.array(spreads, dtype=np.float64)
    return image


def write_images(path: str | os.PathLike[str], images: Sequence[Atoms]) -> None:
    """Write images as a file that is there as a whole or not at all.

    Raises
    ------
    InputError
        The name does not say how.
    FileError
        The file cannot be written.
    """
    name = check_name(path)
    if name.endswith(XYZ):
        data = "".join(map(_as_text, images)).encode()
    else:
        with tempfile.TemporaryDirectory() as folder:
            inside = Path(folder) / "images.traj"
            _to_trajectory(str(inside), images, "w")
            data = inside.read_bytes()
    try:
        write_whole(name, data)
    except OSError as error:
        raise _cannot(name, error) from error


class ImageAppender:
    """Appends images to a file, each of them whole or not at all.

    The file is opened for each image only, so that it can be read at any time. One that is
    there already is gone on with.

    Parameters
    ----------
    path : str
        Extended XYZ or a trajectory of ASE, by its ending.

    Raises
    ------
    InputError
        The name does not say how.
    ImageFileError
        The file is there, and no image can follow what is in it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_name(path)
        if Path(self.path).exists() and Path(self.path).stat().st_size:
            self._check()

    def append(self, image: Atoms) -> None:
        """Append one image.

        Raises
        ------
        FileError
            It cannot be written; the images before it stay.
        """
        try:
            if self.path.endswith(XYZ):
                append_text(self.path, image)
            else:
                _to_trajectory(self.path, [image], "a")
        except OSError as error:
            raise _cannot(self.path, error) from error

    def _check(self) -> None:
        """Find out whether the file ends with a whole image."""
        wrong = ImageFileError(
            f"{self.path} is there already and does not end with a whole image: nothing can be "
            "appended; move it away, or give another name"
        )
        if self.path.endswith(XYZ):
            starts = frame_offsets(self.path)
            with open(self.path, "rb") as file:
                file.seek(int(starts[-1]) if len(starts) else 0)
                last = file.read()
            lines = last.splitlines()
            if not last.endswith(b"\n") or not len(starts) or len(lines) < int(lines[0]) + 2:
                raise wrong
            return
        from ase.io.trajectory import TrajectoryReader

        try:
            with TrajectoryReader(self.path) as trajectory:  # type: ignore[no-untyped-call]
                trajectory[-1]
        except Exception as error:  # ASE's reader raises anything
            raise ImageFileError(f"{wrong} ({describe(error)})") from error


def append_text(path: str, image: Atoms) -> None:
    """Append an image as extended XYZ, the whole of it or nothing; OSError where it cannot be."""
    data = _as_text(image).encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except BaseException:
            with contextlib.suppress(OSError):  # of a device
                os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def _as_text(image: Atoms) -> str:
    from ase.io.extxyz import write_extxyz

    stream = io.StringIO()
    write_extxyz(stream, image)
    return stream.getvalue()


def _to_trajectory(path: str, images: Sequence[Atoms], mode: str) -> None:
    """Write images; the per-atom spreads, for which the format has no place, go into `info`."""
    from ase.io.trajectory import TrajectoryWriter

    with TrajectoryWriter(path, mode, master=True) as writer:  # type: ignore[no-untyped-call]
        for image in images:
            copy = image.copy()  # type: ignore[no-untyped-call]
            copy.info["forces_spread"] = copy.arrays["forces_spread"].tolist()
            writer.write(copy)


def _cannot(name: str, error: OSError) -> FileError:
    return FileError(f"{name} cannot be written: {error.strerror or error}")
