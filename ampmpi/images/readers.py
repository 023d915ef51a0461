"""Readers of single frames, for formats with random access."""

from __future__ import annotations

import io
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from ampmpi.images.files import ImageFile, open_trajectory
from ampmpi.images.labels import UNNAMED

if TYPE_CHECKING:
    from ase import Atoms


class Reader(Protocol):
    """An open file of images."""

    def read(self, locator: int, results: bool) -> Atoms:
        """Return one image, with its energy and forces if `results` is set."""

    def close(self) -> None:
        """Close the file."""


class TrajectoryReader:
    """Frames of a .traj by number."""

    def __init__(self, path: str) -> None:
        self._trajectory, self._unpacked = open_trajectory(path)

    def read(self, locator: int, results: bool) -> Atoms:
        """Return one image; without results, only what a fingerprint depends on is read."""
        from ase import Atoms

        if results:
            image: Atoms = self._trajectory[locator]
            return image

        frame = self._trajectory.backend[locator]
        header = frame if "numbers" in frame else self._trajectory
        return Atoms(
            numbers=header.numbers, positions=frame.positions, cell=frame.cell, pbc=header.pbc
        )

    def close(self) -> None:
        """Close the file."""
        self._trajectory.close()
        if self._unpacked is not None:
            self._unpacked.close()


class XYZReader:
    """Frames of an extended XYZ file by offset."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb")  # noqa: SIM115

    def read(self, locator: int, results: bool) -> Atoms:
        """Return one image."""
        from ase.io import read

        self._file.seek(locator)
        first = self._file.readline()
        n_atoms = int(first)
        lines = [first, *islice(self._file, n_atoms + 1)]
        if len(lines) < n_atoms + 2:
            raise EOFError(f"the file ends after {len(lines) - 2} of {n_atoms} atoms")
        for line in islice(self._file, 3):
            if not line.lstrip().startswith(b"VEC"):
                break
            lines.append(line)
        # A name in another encoding, in the comment, is no reason to refuse the image.
        text = io.StringIO(b"".join(lines).decode(errors="replace"))
        try:
            atoms: Any = read(text, 0, format="extxyz", parallel=False)
        except KeyError as error:
            symbol = [str(error.args[0]).encode()]
            if not any(line.split()[:1] == symbol for line in lines[2:]):
                raise
            raise ValueError(f"{error} is no chemical symbol") from None
        if results and n_atoms and len(lines[2].split()) >= 7 and b"Properties" not in lines[1]:
            atoms.info[UNNAMED] = len(lines[2].split()) - 4
        return atoms  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class DatabaseReader:
    """Rows of an ASE database by id."""

    def __init__(self, path: str) -> None:
        from ase.db import connect

        self._database: Any = connect(path, use_lock_file=False, serial=True)  # type: ignore[no-untyped-call]

    def read(self, locator: int, results: bool) -> Atoms:
        """Return one image; with results, also what the row keeps beside it."""
        atoms: Atoms = self._database.get_atoms(id=locator, add_additional_information=results)
        return atoms

    def close(self) -> None:
        """Do nothing: no file stays open."""


def open_reader(file: ImageFile) -> Reader:
    """Open a file with random access."""
    if file.format == "traj":
        return TrajectoryReader(file.path)
    if file.format == "db":
        return DatabaseReader(file.path)
    return XYZReader(file.path)
