"""What makes an image unusable, said in one sentence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError

SMALLEST_DISTANCE = 1.0e-6
"""Å; atoms closer than this lie on top of each other."""

MOST_NEIGHBORS = 100_000
"""Neighbours per atom beyond which a cell is taken for a mistake."""

_BALLS = {1: 2.0, 2: math.pi, 3: 4.0 * math.pi / 3.0}


def check_numbers(atoms: Any) -> None:
    """Raise `ImageError` for an empty image, and for positions or a cell that are not finite."""
    if len(atoms) == 0:
        raise ImageError("the image has no atoms: leave it out.")
    if not np.isfinite(atoms.positions).all():
        wrong = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
        raise ImageError(
            f"the position of {_atoms(atoms, wrong)} is not finite: "
            "correct it or leave the image out."
        )
    if not np.isfinite(atoms.cell.array).all():
        raise ImageError("the cell is not finite: correct it or leave the image out.")


def check_elements(atoms: Any, species: NDArray[np.int64], elements: tuple[str, ...]) -> None:
    """Raise `ImageError` unless each atom's element has functions (its species is not -1)."""
    if species.min() < 0:
        wrong = np.flatnonzero(species < 0)
        raise ImageError(
            f"the descriptor has no functions for the element of {_atoms(atoms, wrong)}: "
            f"it knows {', '.join(elements)}; add the element or leave the image out."
        )


def check_cell(
    cell: NDArray[np.float64], periodic: NDArray[np.bool_], n_atoms: int, cutoff: float
) -> None:
    """Raise `ImageError` unless the periodic cell vectors are independent and large enough."""
    if not periodic.any():
        return
    axes = cell[periodic]
    axes_text = ", ".join(name for name, on in zip("abc", periodic, strict=True) if on)
    lengths = np.sqrt((axes * axes).sum(axis=1))
    if len(axes) == 3:
        measure = abs(float(np.dot(np.cross(axes[0], axes[1]), axes[2])))
    elif len(axes) == 2:
        measure = float(np.linalg.norm(np.cross(axes[0], axes[1])))
    else:
        measure = float(lengths[0])
    if measure <= 1.0e-10 * float(lengths.prod()):
        raise ImageError(
            f"the cell is singular along its periodic axes ({axes_text}): "
            "give it three independent vectors or switch pbc off."
        )
    neighbors = n_atoms * _BALLS[len(axes)] * cutoff ** len(axes) / measure
    if neighbors > MOST_NEIGHBORS:
        raise ImageError(
            f"the cell is so small along its periodic axes ({axes_text}) that an atom has some "
            f"{neighbors:.2g} neighbours: check its vectors and their unit (Å)."
        )


def check_overlap(atoms: Any, closest: NDArray[np.float64]) -> None:
    """Raise `ImageError` when the two closest atoms lie on top of each other."""
    if closest[2] < SMALLEST_DISTANCE**2:
        first, second = sorted(int(number) for number in closest[:2])
        symbols = atoms.get_chemical_symbols()
        if first == second:
            what = f"atom {first} ({symbols[first]}) overlaps with its own periodic image"
        else:
            what = f"atoms {first} ({symbols[first]}) and {second} ({symbols[second]}) overlap"
        raise ImageError(f"{what}: move or remove one, or leave the image out.")


def _atoms(atoms: Any, indices: NDArray[np.intp]) -> str:
    symbols = atoms.get_chemical_symbols()
    named = ", ".join(f"{i} ({symbols[i]})" for i in indices[:3].tolist())
    more = f" and {len(indices) - 3} more" if len(indices) > 3 else ""
    return f"atom{'s' if len(indices) > 1 else ''} {named}{more}"
