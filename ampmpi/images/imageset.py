"""A set of images as one sequence; any share of it can be read."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import ImageError, ImageFileError, InputError
from ampmpi.images.files import Frames, ImageFile, describe, find_files, iterate, spread, survey
from ampmpi.images.labels import LabelKeys
from ampmpi.images.readers import Reader, open_reader
from ampmpi.images.reading import ImageName, Reading, named

if TYPE_CHECKING:
    from ase import Atoms

SAMPLED_FILES = 16
"""Files of which a sample takes images."""


@dataclass(frozen=True, slots=True, order=True)
class ImageRef:
    """The name of an image: the file it is in, and its number there, from 0.

    An image that came from no file has the file name ``""``.
    """

    file: str
    index: int

    def __str__(self) -> str:
        return f"{self.file}, image {self.index}" if self.file else f"image {self.index}"


class Images(Protocol):
    """A sequence of images; any of them can be read."""

    def __len__(self) -> int: ...

    def ref(self, index: int) -> ImageRef:
        """Return the name of an image."""

    def length_unit(self, index: int) -> str:
        """Return the unit for which an image's lengths were taken."""

    def sample(self, most: int) -> list[int]:
        """Return some images that are quick to read, in ascending order."""

    def read_many(
        self, indices: Sequence[int], locators: Sequence[int] | None = None, results: bool = False
    ) -> Iterator[tuple[int, Atoms | ImageError]]:
        """Read images in ascending order."""

    def has_changed(self, index: int) -> bool:
        """Return whether the image may have changed since the survey."""

    def close(self) -> None:
        """Close the files that are open."""


class ImageSet:
    """The images of files.

    Parameters
    ----------
    files : sequence of ImageFile
        The files.
    frames : sequence of Frames
        What a survey found in each.
    """

    def __init__(self, files: Sequence[ImageFile], frames: Sequence[Frames]) -> None:
        self.files = tuple(files)
        self.frames = tuple(frames)
        self._starts = [0, *accumulate(len(found.numbers) for found in frames)]
        self._open: tuple[int, Reader] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def locators(self) -> NDArray[np.int64]:
        """Return where each image is in its file; shape (len(self),)."""
        parts = [
            np.asarray(found.numbers, dtype=np.int64) if found.locators is None else found.locators
            for found in self.frames
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def file_of(self, index: int) -> int:
        """Return the number of the file that an image is in."""
        return bisect_right(self._starts, index) - 1

    def span(self, file: int) -> range:
        """Return the images of a file."""
        return range(self._starts[file], self._starts[file + 1])

    def ref(self, index: int) -> ImageRef:
        """Return the name of an image."""
        file = self.file_of(index)
        number = self.frames[file].numbers[index - self._starts[file]]
        return ImageRef(self.files[file].path, number)

    def length_unit(self, index: int) -> str:
        """Return the unit for which an image's lengths were taken."""
        return self.files[self.file_of(index)].length_unit

    def sample(self, most: int) -> list[int]:
        """Return images of some files: from all over a file, or from its beginning."""
        files = spread(len(self.files), min(most, SAMPLED_FILES))
        chosen: list[int] = []
        for file in files:
            span, n = self.span(file), max(1, most // len(files))
            anywhere = self.files[file].is_random_access
            which = spread(len(span), n) if anywhere else range(len(span))[:n]
            chosen += [span[i] for i in which]
        return chosen

    def read_many(
        self, indices: Sequence[int], locators: Sequence[int] | None = None, results: bool = False
    ) -> Iterator[tuple[int, Atoms | ImageError]]:
        """Read images in ascending order.

        Files without random access are read from front to back, up to the last
        image that is wanted, one image in memory at a time.

        Parameters
        ----------
        indices : sequence of int
            Which, ascending.
        locators : sequence of int, optional
            Where they are in their files; from the survey by default.
        results : bool
            Whether energies and forces are read, too.

        Yields
        ------
        index, image
            The image, or an `ImageError` in its place if it cannot be read.

        Raises
        ------
        ImageFileError
            A file can no longer be opened.
        """
        position = 0
        while position < len(indices):
            file = self.file_of(indices[position])
            end = position
            while end < len(indices) and indices[end] < self._starts[file + 1]:
                end += 1
            wanted = indices[position:end]
            if self.files[file].is_random_access:
                found = None if locators is None else locators[position:end]
                yield from self._pick(file, wanted, found, results)
            else:
                yield from self._stream(file, wanted)
            position = end

    def has_changed(self, index: int) -> bool:
        """Return whether the file of an image was written to since the survey."""
        file = self.file_of(index)
        try:
            now = Path(self.files[file].path).stat().st_mtime_ns
        except OSError:
            return True
        return now != self.frames[file].changed

    def close(self) -> None:
        """Close what is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _pick(
        self, file: int, wanted: Sequence[int], locators: Sequence[int] | None, results: bool
    ) -> Iterator[tuple[int, Atoms | ImageError]]:
        start, frames = self._starts[file], self.frames[file]
        if locators is None:
            where = frames.numbers if frames.locators is None else frames.locators
            locators = [int(where[index - start]) for index in wanted]
        reader = self._reader(file)
        for index, locator in zip(wanted, locators, strict=True):
            try:
                image: Atoms | ImageError = self.files[file].finished(
                    reader.read(int(locator), results)
                )
            except Exception as error:  # ASE's readers raise anything
                image = ImageError(f"it cannot be read: {describe(error)}")
            yield index, image

    def _stream(self, file: int, wanted: Sequence[int]) -> Iterator[tuple[int, Atoms | ImageError]]:
        start, numbers = self._starts[file], self.frames[file].numbers
        at = {numbers[index - start]: index for index in wanted}
        last = max(at)
        found: dict[int, Atoms] = {}
        try:
            for number, image in enumerate(iterate(self.files[file])):
                if number in at:
                    if numbers.step > 0:
                        yield at.pop(number), image
                    else:
                        found[at.pop(number)] = image
                if number == last:
                    break
            reason = "the file is shorter than before"
        except Exception as error:  # ASE's readers raise anything
            reason = describe(error)
        yield from sorted(found.items(), key=lambda item: item[0])
        for index in sorted(at.values()):
            yield index, ImageError(f"it cannot be read: {reason}")

    def _reader(self, file: int) -> Reader:
        if self._open is None or self._open[0] != file:
            self.close()
            try:
                self._open = file, open_reader(self.files[file])
            except Exception as error:  # ASE's readers raise anything
                path = self.files[file].path
                raise ImageFileError(f"{path} cannot be read: {describe(error)}") from error
        return self._open[1]


class ImageList:
    """Images in memory, the same on every rank."""

    def __init__(self, images: Sequence[Atoms]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def ref(self, index: int) -> ImageRef:
        """Return the name of an image."""
        return ImageRef("", index)

    def length_unit(self, index: int) -> str:
        """Return Å: what is in memory is in ASE's units."""
        return "Å"

    def sample(self, most: int) -> list[int]:
        """Return images from all over the set."""
        return spread(len(self), most)

    def read_many(
        self, indices: Sequence[int], locators: Sequence[int] | None = None, results: bool = False
    ) -> Iterator[tuple[int, Atoms | ImageError]]:
        """Go through images in ascending order."""
        for index in indices:
            yield index, self._images[index]

    def has_changed(self, index: int) -> bool:
        """Return False: the images are in memory."""
        return False

    def close(self) -> None:
        """Do nothing: no file is open."""


def open_images(images: Any) -> ImageSet | ImageList:
    """Return images as a set that can be read in shares.

    Parameters
    ----------
    images : file name, Atoms, mapping of hash to Atoms, or iterable of file names or Atoms
        The images; names may be patterns and may end in ``@frames``.

    Raises
    ------
    ImageFileError
        A file is missing or cannot be read.
    InputError
        `images` is something else.
    """
    names = file_names(images)
    if names is not None:
        files = find_files(names)
        return ImageSet(files, [survey(file) for file in files])
    return image_list(images)


def file_names(images: Any) -> list[str | ImageName] | None:
    """Return the names if images are given as files, else None."""
    if isinstance(images, str | os.PathLike):
        return [_name(images)]
    if isinstance(images, Sequence) and images:
        named = [isinstance(item, str | os.PathLike) for item in images]
        if all(named):
            return [_name(item) for item in images]
        if any(named):
            raise InputError("some images are given as files and some as Atoms: choose one")
    return None


def _name(item: str | os.PathLike[str]) -> str | ImageName:
    return item if isinstance(item, ImageName) else os.fspath(item)


def as_read(
    images: Any, units: str | None, format: str | None, keys: LabelKeys | None = None
) -> Any:
    """Return images with the units and the format in which their files are to be read.

    Parameters
    ----------
    images : file name, sequence of these, or what else `open_images` takes
        The images.
    units : str or None
        What the numbers in the files are; ASE's units by default.
    format : str or None
        ASE's name of their format, where ASE cannot guess it.
    keys : LabelKeys, optional
        Names of labels, which are in these units, too.

    Raises
    ------
    InputError
        These are not known, or the images are not files.
    """
    if images is None:
        return images
    names = file_names(images)
    if units is None and format is None:
        if names is not None:
            Reading.of(keys=keys)
        return images
    if names is None:
        raise InputError(
            "units and format are for files of images; these are Atoms, which are in Å and eV"
        )
    return named(names, Reading.of(format, units, keys))


def image_list(images: Any) -> ImageList:
    """Return Atoms as a set of images."""
    from ase import Atoms

    if isinstance(images, Atoms):
        images = [images]
    elif isinstance(images, Mapping):
        images = list(images.values())
    elif not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        if not isinstance(images, Iterable):
            raise InputError(
                f"images is of type {type(images).__name__}: give file names or ASE Atoms"
            )
        images = list(images)
    if hasattr(images, "select") and hasattr(images, "get_atoms"):
        raise InputError(
            "images is an open ASE database: give the name of its file, or "
            "[row.toatoms() for row in db.select()]"
        )
    for index in range(len(images)) if isinstance(images, list | tuple) else ():
        if not isinstance(images[index], Atoms):
            raise InputError(f"image {index} is a {type(images[index]).__name__}, not ASE Atoms")
    return ImageList(images)
