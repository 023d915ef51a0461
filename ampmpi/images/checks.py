"""Whether an image can be described at all, whatever the descriptor."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ampmpi.text import plain

if TYPE_CHECKING:
    from ase import Atoms

FARTHEST = 1.0e8
"""Å; farther from the origin, positions keep too few digits for distances."""

SINGULAR = 1.0e-10
"""Volume of a singular cell, as part of that of a box with the same lengths."""


VARYING = re.compile(r"""'[^']*'|"[^"]*"|(?<![\w-])[-+]?\d[\w.+-]*""")
"""What differs between the reasons of images that are of one kind."""


class Problem(NamedTuple):
    """Why an image cannot be used.

    Attributes
    ----------
    kind : str
        What is true of all images with this problem: "has no atoms".
    sentence : str
        What goes behind the image's name.
    """

    kind: str
    sentence: str


def problem(atoms: Atoms) -> Problem | None:
    """Return why no descriptor can take an image; None if that is not known before."""
    if not len(atoms):
        kind = "has no atoms"
        return Problem(kind, kind)
    finite = np.isfinite(atoms.positions).all(axis=1)
    if not finite.all():
        kind = "has positions that are not finite"
        return Problem(kind, f"{kind}, such as that of atom {np.flatnonzero(~finite)[0]}")
    if np.abs(atoms.positions).max() > FARTHEST:
        kind = f"has atoms more than {FARTHEST:g} Å from the origin"
        return Problem(kind, kind)
    wrong = np.flatnonzero((atoms.numbers < 1) | (atoms.numbers > 118))
    if len(wrong):
        kind = "has atoms of no element"
        number = atoms.numbers[wrong[0]]
        return Problem(kind, f"{kind}: atom {wrong[0]} has the atomic number {number}")
    if not np.isfinite(atoms.cell.array).all():
        kind = "has a cell that is not finite"
        return Problem(kind, kind)
    axes = atoms.cell.array[atoms.pbc]
    if len(axes):
        box = np.prod(np.linalg.norm(axes, axis=1))
        if np.prod(np.linalg.svd(axes, compute_uv=False)) <= SINGULAR * box:
            kind = "has a singular cell along periodic axes"
            return Problem(kind, kind)
    return None


def unreadable(error: Exception) -> str:
    """Return what is true of all images that cannot be read for the same reason.

    Numbers and what is quoted from the file differ from image to image and are left out.
    """
    reason = plain(str(error), 500).removeprefix("it cannot be read: ")
    return f"cannot be read ({VARYING.sub('…', reason)[:120]})"
