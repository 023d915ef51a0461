"""What makes an image unusable."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError

SMALLEST_DISTANCE = 1.0e-6
"""Å; atoms closer than this lie on top of each other."""

FARTHEST = 1.0e8
"""Å; farther from the origin, positions keep too few digits for distances."""

MOST_NEIGHBORS = 5_000
"""Neighbours per atom beyond which a cell is taken for a mistake.

The densest matter has some 1,000 within 10 Å. Lengths in nm that are taken for Å make 1,000
times as many as there are, which take minutes an image.
"""

_BALLS = {1: 2.0, 2: math.pi, 3: 4.0 * math.pi / 3.0}


def check_numbers(atoms: Any) -> None:
    """Raise `ImageError` for an empty image, and for positions or a cell out of all bounds."""
    if len(atoms) == 0:
        raise ImageError("the image has no atoms: leave it out.")
    distances = np.abs(atoms.positions)
    if not distances.max() <= FARTHEST:  # true of NaN, too
        wrong = np.flatnonzero(~np.isfinite(distances).all(axis=1))
        if len(wrong):
            raise ImageError(
                f"the position of {_atoms(atoms, wrong)} is not finite: "
                "correct it or leave the image out."
            )
        wrong = np.flatnonzero(distances.max(axis=1) > FARTHEST)
        raise ImageError(
            f"the position of {_atoms(atoms, wrong)} is more than {FARTHEST:g} Å from the origin: "
            "check its unit or leave the image out."
        )
    if not all(map(math.isfinite, atoms.cell.array.ravel().tolist())):
        raise ImageError("the cell is not finite: correct it or leave the image out.")


def check_elements(atoms: Any, species: NDArray[np.int64], elements: tuple[str, ...]) -> None:
    """Raise `ImageError` unless each atom's element has functions (its species is not -1)."""
    if np.minimum.reduce(species) < 0:
        wrong = np.flatnonzero(species < 0)
        raise ImageError(
            f"the descriptor has no functions for the element of {_atoms(atoms, wrong)}: "
            f"it knows {', '.join(elements)}; add the element or leave the image out."
        )


def check_cell(
    cell: NDArray[np.float64], periodic: NDArray[np.bool_], n_atoms: int, cutoff: float
) -> None:
    """Raise `ImageError` unless the periodic cell vectors are independent and large enough."""
    # Plain numbers: numpy would take ten times as long over three vectors.
    on = periodic.tolist()
    if True not in on:
        return
    axes = [axis for axis, wanted in zip(cell.tolist(), on, strict=True) if wanted]
    measure = math.hypot(*axes[0])
    if len(axes) > 1:
        normal = _cross(axes[0], axes[1])
        measure = math.hypot(*normal)
    if len(axes) > 2:
        measure = abs(sum(a * b for a, b in zip(normal, axes[2], strict=True)))
    axes_text = ", ".join(name for name, wanted in zip("abc", on, strict=True) if wanted)
    if measure <= 1.0e-10 * math.prod(math.hypot(*axis) for axis in axes):
        raise ImageError(
            f"the cell is singular along its periodic axes ({axes_text}): "
            "give it three independent vectors or switch pbc off."
        )
    neighbors = n_atoms * _BALLS[len(axes)] * cutoff ** len(axes) / measure
    if neighbors > MOST_NEIGHBORS:
        raise ImageError(
            f"each atom would have about {neighbors:.2g} neighbours within the cutoff of "
            f"{cutoff:g} Å, because the cell is so small along its periodic axes ({axes_text}): "
            "check the cutoff, the cell's vectors and their unit (Å, or give --units)."
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


def _cross(a: list[float], b: list[float]) -> list[float]:
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def _atoms(atoms: Any, indices: NDArray[np.intp]) -> str:
    symbols = atoms.get_chemical_symbols()
    named = ", ".join(f"{i} ({symbols[i]})" for i in indices[:3].tolist())
    more = f" and {len(indices) - 3} more" if len(indices) > 3 else ""
    return f"atom{'s' if len(indices) > 1 else ''} {named}{more}"
