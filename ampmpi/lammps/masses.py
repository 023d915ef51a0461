"""Elements and masses of LAMMPS' atom types, which are easily given in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ase.data import atomic_masses, atomic_numbers

from ampmpi.errors import InputError

CLOSE = 0.5
"""u; masses that differ by less are those of one element."""


def masses_of_types(lmp: Any) -> list[float]:
    """Return the mass of each type, u; none where they are not set, or atoms have their own."""
    n_types = lmp.extract_setting("ntypes")
    masses = lmp.extract_atom("mass")
    if not masses:
        return []
    found = [float(masses[number]) for number in range(1, n_types + 1)]
    return found if all(one > 0.0 for one in found) else []


def elements_by_mass(lmp: Any, known: Sequence[str]) -> list[str]:
    """Return the element of each type.

    Parameters
    ----------
    lmp : lammps.lammps
        LAMMPS, with its box.
    known : sequence of str
        Elements of the potential.

    Raises
    ------
    InputError
        Masses are not set, or do not tell one of these elements.
    """
    n_types = lmp.extract_setting("ntypes")
    if len(known) == 1:
        return [known[0] for _ in range(n_types)]
    masses = masses_of_types(lmp)
    if not masses:
        raise InputError(
            f"which of {', '.join(known)} the atom types are cannot be told before masses are "
            "set: give the elements in the order of the types"
        )
    found: list[str] = []
    for number, mass in enumerate(masses, 1):
        element = _nearest(mass, known)
        if abs(_mass(element) - mass) > CLOSE:
            raise InputError(
                f"atom type {number} has the mass {mass:g}, which is that of none of "
                f"{', '.join(known)}: give the elements in the order of the types"
            )
        found.append(element)
    return found


def doubtful_masses(lmp: Any, elements: Sequence[str], known: Sequence[str]) -> str | None:
    """Say which type has the mass of another element of the potential; None if all is well."""
    for number, (mass, element) in enumerate(zip(masses_of_types(lmp), elements, strict=False), 1):
        other = _nearest(mass, known)
        if other != element and abs(_mass(other) - mass) < CLOSE < abs(_mass(element) - mass):
            return (
                f"atom type {number} is taken for {element}, but its mass {mass:g} is that of "
                f"{other}: look at the order of the elements"
            )
    return None


def _mass(element: str) -> float:
    return float(atomic_masses[atomic_numbers[element]])


def _nearest(mass: float, known: Sequence[str]) -> str:
    return min(known, key=lambda element: abs(_mass(element) - mass))
