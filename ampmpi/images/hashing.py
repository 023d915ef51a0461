"""Amp's key of an image, and Amp's dictionary of images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms


class HashedImages(dict[str, "Atoms"]):
    """Images by their hash.

    Attributes
    ----------
    metadata : dict
        ``metadata["duplicates"]`` maps the hash of each image that occurs several
        times to how often it does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.metadata: dict[str, Any] = {"duplicates": {}}


def hash_image(atoms: Atoms) -> str:
    """Return Amp's key of an image.

    It is the MD5 of the text of ``pbc``, the cell, the atomic numbers and the
    positions, in that order, the lengths in Å with fifteen decimals.

    Parameters
    ----------
    atoms : Atoms
        The image.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    return digest_image(atoms).hex()


def digest_image(atoms: Atoms) -> bytes:
    """Return the 16 bytes whose hexadecimal form is `hash_image`."""
    pbc = atoms.pbc
    n_atoms = len(atoms)
    text = _template(pbc[0], pbc[1], pbc[2], n_atoms) % (
        *atoms.cell.array.ravel().tolist(),
        *atoms.numbers.tolist(),
        *atoms.positions.ravel().tolist(),
    )
    return hashlib.md5(text.encode("ascii"), usedforsecurity=False).digest()


@lru_cache(maxsize=64)
def _template(a: bool, b: bool, c: bool, n_atoms: int) -> str:
    from numpy import array

    return str(array([a, b, c])) + "%.15f" * 9 + "%3d" * n_atoms + "%.15f" * (3 * n_atoms)


def hash_images(
    images: str | os.PathLike[str] | Iterable[Any] | Mapping[str, Atoms] | None,
    log: Callable[[str], object] | None = None,
    ordered: bool = False,
) -> Mapping[str, Atoms] | None:
    """Return images as a dictionary whose keys are their hashes, as Amp does.

    Parameters
    ----------
    images : file name, list of file names, list or trajectory of Atoms, or mapping
        The images; a mapping is taken to be hashed already.
    log : callable, optional
        Called with a line for each duplicate, and one for the total.
    ordered : bool
        Amp's switch; the dictionary is in order of first appearance either way.

    Returns
    -------
    HashedImages
        Of equal images the last one is kept; None if `images` is None.

    Raises
    ------
    ImageFileError
        A file is missing or cannot be read.
    ImageError
        One of its images cannot be read.
    """
    from ampmpi.errors import ImageError
    from ampmpi.images.imageset import open_images

    def say(line: str) -> None:
        if log is not None:
            log(line)

    if images is None:
        return None
    if isinstance(images, Mapping):
        say(f" {len(images)} unique images after hashing.")
        return images
    hashed = HashedImages()
    repeated: dict[str, int] = hashed.metadata["duplicates"]
    found = open_images(images)
    for index, image in found.read_many(range(len(found)), results=True):
        if isinstance(image, ImageError):
            raise image
        key = hash_image(image)
        if key in hashed:
            repeated[key] = repeated.get(key, 1) + 1
            say(f"Warning: {found.ref(index)} is a duplicate (hash {key}). Was this expected?")
        hashed[key] = image
    found.close()
    say(f" {len(hashed)} unique images after hashing.")
    return hashed
