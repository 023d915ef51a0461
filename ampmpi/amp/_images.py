"""What Amp's utilities do with images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ampmpi.errors import ImageError, InputError, MissingDataError
from ampmpi.images import open_images
from ampmpi.images.labels import NO_ENERGY, NO_FORCES, LabelError, LabelKeys, energy_of, forces_of
from ampmpi.model import amp_file
from ampmpi.parallel.comm import world
from ampmpi.text import amount

if TYPE_CHECKING:
    from ase import Atoms


def check_images(images: Mapping[str, Atoms], forces: bool) -> None:
    """See that images have energies and, where asked for, forces.

    Parameters
    ----------
    images : mapping of str to ase.Atoms
        Images by their hash.
    forces : bool
        Whether forces are needed.

    Raises
    ------
    MissingDataError
        Some have none; the message counts them.
    ImageError
        An energy or forces are wrong.
    """
    keys, missing = LabelKeys(), {NO_ENERGY: 0, NO_FORCES: 0}
    for atoms in images.values():
        for take in (energy_of, forces_of) if forces else (energy_of,):
            try:
                take(atoms, keys)
            except LabelError as error:
                if error.kind not in missing:
                    raise
                missing[error.kind] += 1
    if any(missing.values()):
        lacking = [
            f"{amount(number, 'image')} {'has' if number == 1 else 'have'} no {what}"
            for what, number in zip(("energy", "forces"), missing.values(), strict=True)
            if number
        ]
        raise MissingDataError(f"{', and '.join(lacking)}: compute them, or take the images out")


def randomize_images(images: Any, fraction: float = 0.8) -> tuple[list[Atoms], list[Atoms]]:
    """Split images at random into some to train on and some to test on.

    numpy's global random numbers choose, as in Amp: the same seed gives the same split. All
    ranks get the split of the first one.

    Parameters
    ----------
    images : list of ase.Atoms, trajectory, or file name
        The images.
    fraction : float
        Part of them to train on, from 0 to 1.

    Returns
    -------
    training, test : list of ase.Atoms
        Both in the order of `images`.

    Raises
    ------
    InputError
        The fraction is not from 0 to 1.
    ImageError
        An image cannot be read.
    """
    if not 0.0 <= fraction <= 1.0:
        raise InputError(f"randomize_images: fraction {fraction} is not from 0 to 1")
    opened = open_images(images)
    n = len(opened)
    chosen: set[int] = set()
    while len(chosen) < n - int(fraction * n):
        chosen.add(int(np.random.randint(n)))  # noqa: NPY002  (a script's own seed counts)
    chosen = world().bcast(chosen)
    parts: tuple[list[Atoms], list[Atoms]] = ([], [])
    for index, atoms in opened.read_many(range(n), results=True):
        if isinstance(atoms, ImageError):
            raise ImageError(f"{opened.ref(index)}: {atoms}")
        parts[index in chosen].append(atoms)
    opened.close()
    return parts


def string2dict(text: str) -> dict[str, Any]:
    """Return the dictionary that a text such as a .amp file holds; it is parsed, not run.

    Raises
    ------
    ModelError
        The text is something else, or holds something other than numbers, text and lists.
    """
    return amp_file.parse(text, "the text")
