"""Image files: which are meant, their formats, and how many frames each holds."""

from __future__ import annotations

import glob
import os
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import ImageFileError
from ampmpi.images.foreign import foreign, foreign_folder, is_runner
from ampmpi.images.labels import kinds_of, places
from ampmpi.images.reading import ImageName, Reading
from ampmpi.images.stored_units import stored_units
from ampmpi.images.units import ENERGIES, NATIVE, SYSTEMS, Units, convert, unit_named
from ampmpi.images.unpacked import CHUNK, OPENERS, open_unpacked
from ampmpi.text import plain

if TYPE_CHECKING:
    from ase import Atoms

XSF_ENERGY = re.compile(rb"^#\s*total energy\s*=\s*(\S+)[ \t]*(\S*)", re.MULTILINE | re.IGNORECASE)
"""Where aenet keeps the energy in an XSF file."""


@dataclass(frozen=True)
class ImageFile:
    """A file of images, and which of its frames are meant.

    Attributes
    ----------
    path : str
        The file.
    format : str
        ASE's name of its format.
    select : slice or str
        Frames, or the selection of an ASE database.
    reading : Reading
        What the user said about it.
    """

    path: str
    format: str
    select: slice | str = field(default_factory=lambda: slice(None))
    reading: Reading = field(default_factory=Reading)

    @property
    def is_random_access(self) -> bool:
        """Whether one frame can be read without those before it."""
        if self.format == "extxyz":
            return not self.path.endswith((".gz", ".bz2", ".xz"))
        return self.format in ("traj", "db")

    @property
    def length_unit(self) -> str:
        """The unit for which the file's lengths are taken."""
        if self.reading.units is not None:
            return self.reading.units.length
        return NATIVE.get(self.format, SYSTEMS["metal"])[0]

    def finished(self, image: Atoms) -> Atoms:
        """Return an image that ASE has read in Å and eV, whatever the units in the file."""
        units = self.reading.units
        if units is None:
            return image
        length, energy = units.factors(self.format)
        if length == energy == 1.0:
            return image
        names = {name for _, place in places(image) for name in place}
        return convert(image, length, energy, kinds_of(names, self.reading.keys))


@dataclass(frozen=True)
class Frames:
    """What a survey of a file found.

    Attributes
    ----------
    numbers : range
        The frames that are meant, counted from the start of the file.
    locators : (len(numbers),) int64 array or None
        Where each is: a byte offset or a row's id; None where the frame's
        number is enough.
    changed : int
        When the file was last changed, ns.
    """

    numbers: range
    locators: NDArray[np.int64] | None
    changed: int


def find_files(names: Iterable[str | os.PathLike[str]], most: int | None = None) -> list[ImageFile]:
    """Return the files that names, patterns and ``name@frames`` stand for.

    Parameters
    ----------
    names : iterable of str or path
        The names.
    most : int, optional
        So many of the files, evenly spread; only these are opened to learn their format.

    Raises
    ------
    ImageFileError
        A file is missing, cannot be read, or is in no format that ASE knows.
    """
    found = [
        (path, frames, name.reading if isinstance(name, ImageName) else Reading())
        for name in names
        for path, frames in _expand(os.fspath(name))
    ]
    chosen = range(len(found)) if most is None else spread(len(found), most)
    return [
        ImageFile(path, *_format(path, frames, reading))
        for path, frames, reading in (found[i] for i in chosen)
    ]


def spread(n: int, most: int) -> list[int]:
    """Return at most so many of n numbers, evenly spread."""
    return sorted({n * i // most for i in range(most)} if n > most else range(n))


def is_read(path: str | os.PathLike[str], names: Iterable[str]) -> bool:
    """Return whether a file is one of those that names of images stand for, whatever its name.

    Raises
    ------
    ImageFileError
        A name stands for no file.
    """
    found = [Path(one) for name in names for one, _ in _expand(name)]
    return Path(path).exists() and any(one.exists() and one.samefile(path) for one in found)


def _expand(name: str) -> Iterator[tuple[str, str]]:
    candidates = [(name, "")]
    path, at, frames = name.rpartition("@")
    if at and path:
        candidates.append((path, frames))
    for path, frames in candidates:
        if os.path.lexists(path):
            yield path, frames
            return
    for path, frames in candidates:
        found = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else []
        if found:
            for match in found:
                yield match, frames
            return
    if glob.has_magic(name):
        raise ImageFileError(f"no file matches {name!r}")
    raise ImageFileError(f"there is no file {candidates[-1][0]!r}")


def _format(path: str, frames: str, reading: Reading) -> tuple[str, slice | str, Reading]:
    """Return a file's format, the frames that are meant, and how it is to be read."""
    try:
        if Path(path).is_dir():
            if not path.rstrip("/").endswith(".bundle"):
                what = foreign_folder(path) or "a directory: name the files in it"
                raise ImageFileError(f"{path} is {what}")
        elif not Path(path).is_file() and Path(path).exists():
            raise ImageFileError(f"{path} is not a regular file: copy the images into one")
        else:
            with open(path, "rb") as file:
                if not file.read(1):
                    raise ImageFileError(f"{path} is empty")
        format = reading.format or _recognised(path)
        if format in ("db", "json") and reading.units is None:
            reading = replace(reading, units=stored_units(path))
    except ImageFileError:
        raise
    except OSError as error:
        raise ImageFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # ASE and the modules that decompress raise anything
        raise ImageFileError(f"{path} cannot be read: {describe(error)}") from error
    return format, _selection(path, frames, is_database=format == "db"), reading


def _recognised(path: str) -> str:
    """Return ASE's name of a file's format."""
    from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat

    try:
        format: str = filetype(path)
        get_ioformat(format)
    except UnknownFileTypeError:
        format = ""
    if not format and is_runner(path):
        format = "runnerdata"  # ASE knows it only if no space comes first
    what = foreign(path, format)
    if what is not None:
        raise ImageFileError(f"{path} is {what}")
    if not format:
        raise ImageFileError(
            f"{path} is not in a format that ASE knows by its name or its first lines; give "
            "--images-format NAME if ASE reads it ('ase info --formats' lists the names)"
        )
    return format


def _selection(path: str, frames: str, is_database: bool) -> slice | str:
    """Parse what stands behind the @: a frame, a slice, or a database's selection."""
    try:
        parts = [int(part) if part else None for part in frames.split(":")]
    except ValueError:
        parts = []
    if not frames:
        return slice(None)
    if len(parts) == 1 and parts[0] is not None:
        return slice(parts[0], parts[0] + 1 or None)
    if len(parts) in (2, 3) and 0 not in parts[2:]:
        return slice(*parts)
    if is_database:
        return frames
    raise ImageFileError(
        f"{path}@{frames}: {frames!r} does not select frames; write @3, @-1, @:100 or @::10"
    )


def survey(file: ImageFile, visit: Callable[[int, Atoms], object] | None = None) -> Frames:
    """Count the frames of a file and find out where they are.

    Trajectories and databases know; extended XYZ is scanned for line ends; files of any
    other format are read from front to back.

    Parameters
    ----------
    file : ImageFile
        The file.
    visit : callable, optional
        Called with the number and the image of each frame if the whole file has to
        be read, so that it need not be read again.

    Raises
    ------
    ImageFileError
        The file cannot be read.
    """
    try:
        changed = Path(file.path).stat().st_mtime_ns
        if file.format == "traj":
            locators, count = None, _count_trajectory(file.path)
        elif file.format == "db":
            locators = _row_ids(file.path, file.select)
            count = len(locators)
        elif file.is_random_access:
            locators = frame_offsets(file.path)
            count = len(locators)
        else:
            locators, count = None, 0
            for image in iterate(file):
                if visit is not None:
                    visit(count, image)
                count += 1
    except ImageFileError:
        raise
    except Exception as error:
        raise ImageFileError(f"{file.path} cannot be read ({describe(error)})") from error
    numbers = range(count)
    if isinstance(file.select, slice):
        numbers = numbers[file.select]
        if locators is not None:
            locators = locators[file.select]
    if not len(numbers) and file.select != slice(None):
        raise ImageFileError(
            f"{file.path}: the frames given after the @ are not among its {count} frames"
            if isinstance(file.select, slice)
            else f"{file.path}@{file.select}: no row of the database is selected"
        )
    return Frames(numbers, locators, changed)


def iterate(file: ImageFile) -> Iterator[Atoms]:
    """Go through all frames of a file with ASE, in Å and eV."""
    from ase.io import iread

    images: Iterable[Atoms] = iread(
        file.path, ":", format=file.format, parallel=False, do_not_split_by_at_sign=True
    )
    if file.format == "xsf":
        images = _with_energies(file.path, images, file.reading.units)
    elif file.format == "json":
        images = _rows(file.path)
    yield from map(file.finished, images)


def _rows(path: str) -> Iterator[Atoms]:
    """Go through an ASE database with all that it says about an image."""
    from ase.db import connect

    database: Any = connect(path, use_lock_file=False, serial=True)  # type: ignore[no-untyped-call]
    for row in database.select(sort="id"):
        yield row.toatoms(add_additional_information=True)


def _open_plain(path: str) -> Any:
    return open(path, "rb")


def _with_energies(path: str, images: Iterable[Atoms], units: Units | None) -> Iterator[Atoms]:
    """Add the energies of aenet's comments, of whose unit the forces are, too: eV and eV/Å.

    ASE takes the forces of any XSF file for Hartree/Å, and reads no comments.
    """
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.units import Hartree

    opener = OPENERS.get(Path(path).suffix, _open_plain)
    with opener(path) as file:
        found = XSF_ENERGY.findall(file.read())
    for number, image in enumerate(images):
        if number < len(found):
            value, unit = _xsf_energy(path, *found[number])
            if units is not None and found[number][1] and unit != units.energy:
                raise ImageFileError(
                    f"{path} says that its energies are in {unit}, and --units says "
                    f"{units.energy}: leave --units out, or correct one of them"
                )
            in_file = unit if units is None else "eV"  # what `units` is applied to
            results = {"energy": value * ENERGIES[in_file]}
            if image.calc is not None:
                results["forces"] = image.calc.results["forces"] / Hartree * ENERGIES[in_file]
            image.calc = SinglePointCalculator(image, **results)  # type: ignore[no-untyped-call]
        yield image


def _xsf_energy(path: str, value: bytes, unit: bytes) -> tuple[float, str]:
    """Return an energy of an XSF file's comments and its unit, eV where none is given."""
    try:
        number = float(value.lower().replace(b"d", b"e"))
    except ValueError:
        shown = plain(value.decode(errors="replace"), 40)
        raise ImageFileError(f"{path}: the total energy {shown!r} is no number") from None
    name = unit_named(unit.decode(errors="replace")) if unit else "eV"
    if name is None or name not in ENERGIES:
        shown = plain(unit.decode(errors="replace"), 40)
        raise ImageFileError(
            f"{path}: the unit {shown!r} of its total energy is not known; write one of "
            f"{', '.join(ENERGIES)}"
        )
    return number, name


def open_trajectory(path: str) -> tuple[Any, Any]:
    """Open a .traj, which may be compressed.

    Returns
    -------
    trajectory : TrajectoryReader
        ASE's reader.
    file : file or None
        The unpacked file, to be closed with it.
    """
    from ase.io.trajectory import TrajectoryReader

    if Path(path).suffix not in OPENERS:
        return TrajectoryReader(path), None  # type: ignore[no-untyped-call]
    file = open_unpacked(path)
    try:
        return TrajectoryReader(file), file  # type: ignore[no-untyped-call]
    except BaseException:
        file.close()
        raise


def describe(error: Exception) -> str:
    """Return the message of another package's exception, on one line and safe to print."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = plain(" ".join(str(error).split()), 500)  # it may quote the file
    if text and not isinstance(error, KeyError):
        return text
    return f"{type(error).__name__} {text}".rstrip()


def _count_trajectory(path: str) -> int:
    trajectory, file = open_trajectory(path)
    try:
        return len(trajectory)
    finally:
        trajectory.close()
        if file is not None:
            file.close()


def _row_ids(path: str, select: slice | str) -> NDArray[np.int64]:
    from ase.db import connect

    selection: Any = select if isinstance(select, str) else None
    database = connect(path, use_lock_file=False, serial=True)  # type: ignore[no-untyped-call]
    rows = database.select(selection, columns=["id"], include_data=False, sort="id")
    return np.fromiter((row.id for row in rows), np.int64)


def frame_offsets(path: str | Path) -> NDArray[np.int64]:
    """Return where in an extended XYZ file its frames begin, in bytes.

    A frame is a line with the number of atoms, a comment, a line for each
    atom, and up to three ``VEC`` lines; empty lines may end the file.

    Raises
    ------
    ImageFileError
        There is no number of atoms where one belongs, or lines follow after an empty
        one, at which ASE would stop reading.
    """
    offsets: list[int] = []
    base = line = ahead = 0  # of the chunk: offset, number of its first line, lines to pass over
    rest = b""
    with open(path, "rb") as file:
        if file.read(len(BOM_UTF8)) == BOM_UTF8:  # as editors on Windows write it
            base = len(BOM_UTF8)
        file.seek(base)
        while True:
            data = file.read(CHUNK)
            text = rest + data
            if not data and text and not text.endswith(b"\n"):
                text += b"\n"
            ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 10) + 1
            starts = np.concatenate(([0], ends)).tolist()
            n_lines = len(ends)
            while ahead < n_lines:
                start, end = starts[ahead], starts[ahead + 1]
                first = text[start:end].strip()
                if first.startswith(b"VEC") and offsets:
                    ahead += 1
                    continue
                if not first:
                    if text[end:].strip() or any(
                        more.strip() for more in iter(lambda: file.read(CHUNK), b"")
                    ):
                        raise ImageFileError(
                            f"{path}, line {line + ahead + 1} is empty, but others follow: "
                            "remove it, because ASE stops reading there"
                        )
                    return np.array(offsets, dtype=np.int64)
                if not first.isdigit():
                    raise ImageFileError(
                        f"{path}, line {line + ahead + 1}: the number of atoms should be here, "
                        f"but it says {first[:40].decode(errors='replace')!r}"
                    )
                offsets.append(base + start)
                ahead += int(first) + 2
            if not data:
                return np.array(offsets, dtype=np.int64)
            ahead -= n_lines
            line += n_lines
            rest = text[starts[-1] :]
            base += starts[-1]
