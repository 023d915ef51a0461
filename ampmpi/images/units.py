"""Units of files that carry none, or others than ASE takes them for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import units as ase_units

from ampmpi.errors import InputError
from ampmpi.text import plain

if TYPE_CHECKING:
    from ase import Atoms

LENGTHS = {
    "Å": 1.0,
    "nm": 10.0,
    "pm": 0.01,
    "Bohr": ase_units.Bohr,
}
"""Units of length, in Å."""

ENERGIES = {
    "eV": 1.0,
    "meV": 1e-3,
    "Hartree": ase_units.Hartree,
    "Ry": ase_units.Rydberg,
    "kcal/mol": ase_units.kcal / ase_units.mol,
    "kJ/mol": ase_units.kJ / ase_units.mol,
}
"""Units of energy, in eV."""

SYSTEMS = {
    "metal": ("Å", "eV"),
    "real": ("Å", "kcal/mol"),
    "atomic": ("Bohr", "Hartree"),
}
"""Names for a pair of both, as in LAMMPS."""

ATOMIC = ("au", "a.u.", "atomic units")
"""Other names of the atomic ones."""

OTHER_NAMES = {
    "a": "Å", "å": "Å", "ang": "Å", "angstrom": "Å", "ångström": "Å", "nanometer": "nm",
    "picometer": "pm", "a0": "Bohr", "bohrs": "Bohr", "ha": "Hartree", "eh": "Hartree",
    "rydberg": "Ry", "electronvolt": "eV", "kcal": "kcal/mol", "kj": "kJ/mol",
}  # fmt: skip

SPOKEN = {
    "ha": "Hartree", "hartree": "Hartree", "hartrees": "Hartree", "au": "Hartree", "ry": "Ry",
    "rydberg": "Ry", "kcal": "kcal/mol", "kcalmol": "kcal/mol", "kj": "kJ/mol", "kjmol": "kJ/mol",
    "mev": "meV",
}  # fmt: skip
"""Words in names of labels that speak of their unit."""

NATIVE = {"runnerdata": SYSTEMS["atomic"]}
"""What ASE takes a format's numbers for, where that is not Å and eV."""

POWERS = {"energy": (1, 0), "forces": (1, -1), "stress": (1, -3), "virial": (1, 0)}
"""Powers of energy and length in each kind of label."""


@dataclass(frozen=True)
class Units:
    """What the numbers in a file are.

    Attributes
    ----------
    length, energy : str
        Names of `LENGTHS` and `ENERGIES`; forces and stresses are made of these.
    """

    length: str = "Å"
    energy: str = "eV"

    def factors(self, format: str) -> tuple[float, float]:
        """Return what lengths and energies as ASE reads them are multiplied by."""
        length, energy = NATIVE.get(format, SYSTEMS["metal"])
        return (
            LENGTHS[self.length] / LENGTHS[length],
            ENERGIES[self.energy] / ENERGIES[energy],
        )

    def __str__(self) -> str:
        return f"{self.energy},{self.length}"


def unit_named(name: str) -> str | None:
    """Return the name in `LENGTHS` or `ENERGIES` of a unit under any of its names, or None."""
    name = name.strip().lower()
    known = {one.lower(): one for one in (*LENGTHS, *ENERGIES)} | OTHER_NAMES
    return known.get(name)


def unit_in(name: str) -> str | None:
    """Return the unit of energy, other than eV, that the name of a label speaks of, or None."""
    words = re.split(r"[\W_]+", name.lower())
    return next((SPOKEN[word] for word in words if word in SPOKEN), None)


def parse_units(text: str) -> Units:
    """Return the units that an option names: such as ``eV,Å``, ``nm`` or ``atomic``.

    Raises
    ------
    InputError
        A name is not known, or there are two of one kind.
    """
    system = text.strip().lower()
    if system in SYSTEMS or system in ATOMIC:
        return Units(*SYSTEMS.get(system, SYSTEMS["atomic"]))
    chosen = [unit_named(part) or "" for part in text.split(",")]
    lengths = [name for name in chosen if name in LENGTHS]
    energies = [name for name in chosen if name in ENERGIES]
    if "" in chosen or len(lengths) > 1 or len(energies) > 1:
        raise InputError(
            f"units {plain(text, 60)!r} are not known; give an energy and a length such as eV,A or "
            f"Hartree,Bohr (lengths: A or {', '.join(LENGTHS)}; energies: {', '.join(ENERGIES)}), "
            f"or one of {', '.join(SYSTEMS)}"
        )
    return Units(*(lengths or ["Å"]), *(energies or ["eV"]))


def convert(atoms: Atoms, length: float, energy: float, kinds: dict[str, str]) -> Atoms:
    """Multiply an image's lengths and labels, in place.

    Parameters
    ----------
    atoms : Atoms
        The image.
    length, energy : float
        The factors.
    kinds : dict
        Which values in ``info``, ``arrays`` and a database's data are labels: the kind of each
        by its name.
    """
    from ase.calculators.singlepoint import SinglePointCalculator

    def factor(name: str) -> float | None:
        powers = POWERS.get(kinds.get(name, ""))
        return None if powers is None else energy ** powers[0] * length ** powers[1]

    calculator = atoms.calc
    atoms.positions *= length
    atoms.cell *= length
    places: list[Any] = [atoms.info, atoms.arrays]
    places += [atoms.info[name] for name in ("key_value_pairs", "data") if name in atoms.info]
    for place in places:
        for name in place:
            place[name] = _scaled(place[name], factor(name))
    if calculator is not None:
        results = {name: _scaled(value, factor(name)) for name, value in calculator.results.items()}
        atoms.calc = SinglePointCalculator(atoms, **results)  # type: ignore[no-untyped-call]
    return atoms


def _scaled(value: Any, factor: float | None) -> Any:
    """Multiply a label; whatever is no number stays, and is refused where it is asked for."""
    if factor is None:
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        return value
    return array * factor if array.dtype.kind in "fiu" else value
