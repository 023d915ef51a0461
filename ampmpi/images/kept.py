"""Images that stay in memory after they were read once, as long as there is room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ampmpi.errors import ImageError
from ampmpi.images.imageset import ImageRef, Images

if TYPE_CHECKING:
    from ase import Atoms

ROOM = 64_000_000
"""Bytes that a rank may keep."""


class KeptImages:
    """A set of images, some of them in memory; each of these is returned once, then forgotten."""

    def __init__(self, images: Images, room: int = ROOM) -> None:
        self._images = images
        self._kept: dict[int, Atoms] = {}
        self._room = room
        self._handed = -1

    def keep(self, index: int, image: Atoms) -> None:
        """Keep an image if there is room for it."""
        size = 4000 + 64 * len(image)
        if size <= self._room:
            self._room -= size
            self._kept[index] = image

    def __len__(self) -> int:
        return len(self._images)

    def ref(self, index: int) -> ImageRef:
        """Return the name of an image."""
        return self._images.ref(index)

    def length_unit(self, index: int) -> str:
        """Return the unit for which an image's lengths were taken."""
        return self._images.length_unit(index)

    def sample(self, most: int) -> list[int]:
        """Return some images that are quick to read, in ascending order."""
        return self._images.sample(most)

    def read_many(
        self, indices: Sequence[int], locators: Sequence[int] | None = None, results: bool = False
    ) -> Iterator[tuple[int, Atoms | ImageError]]:
        """Return images in ascending order; those that are not in memory are read."""
        absent = [i for i, index in enumerate(indices) if index not in self._kept]
        where = None if locators is None else [locators[i] for i in absent]
        rest = self._images.read_many([indices[i] for i in absent], where, results)
        missing = {indices[i] for i in absent}
        for index in indices:
            if index in missing:
                yield next(rest)
            else:
                self._handed = index
                yield index, self._kept.pop(index)

    def has_changed(self, index: int) -> bool:
        """Return whether the image may have changed since the survey."""
        return index != self._handed and self._images.has_changed(index)

    def close(self) -> None:
        """Close the files that are open, and forget the images in memory."""
        self._kept.clear()
        self._images.close()
