"""Whether energies look like those of all electrons in another unit than eV."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.units import Hartree
from numpy.typing import NDArray

from ampmpi.images.units import ENERGIES

ATOMS = {
    "H": -0.5, "He": -2.904, "Li": -7.478, "Be": -14.667, "B": -24.654, "C": -37.845,
    "N": -54.589, "O": -75.067, "F": -99.734, "Ne": -128.938, "Na": -162.255, "Mg": -200.053,
    "Al": -242.346, "Si": -289.359, "P": -341.259, "S": -398.110, "Cl": -460.148, "Ar": -527.540,
}  # fmt: skip
"""Total energies of atoms, Hartree (Chakravorty et al., Phys. Rev. A 47, 3649, 1993)."""

LIGHT = ("H", "He", "Li", "Be")
"""Elements whose energies are so small that those of bonds, or of other units, may be like them."""

NEAR, WIDE = 0.03, 0.05
"""How near to the sum of its atoms the median of the energies has to be, and each of them."""


def likely_energy_unit(
    energies: NDArray[np.float64], composition: NDArray[np.float64], elements: Sequence[str]
) -> str | None:
    """Return the unit that makes energies those of all electrons, or None.

    Parameters
    ----------
    energies : (n,) float array
        Energies, taken for eV; nan for none.
    composition : (n, n_elements) float array
        Number of atoms of each element.
    elements : sequence of str
        The elements.
    """
    atoms = np.array([Hartree * ATOMS.get(element, np.nan) for element in elements])
    light = np.array([element in LIGHT for element in elements], dtype=bool)
    parts = np.where(composition > 0, composition * atoms, 0.0)
    expected = parts.sum(axis=1)
    # Both are negative; nan where an element is not in the table.
    heavy = parts[:, light].sum(axis=1) > 0.2 * expected
    some = heavy & np.isfinite(energies)
    ratios = energies[some] / expected[some]
    if not len(ratios):
        return None
    for unit, factor in ENERGIES.items():
        found = ratios * factor
        if abs(np.median(found) - 1.0) < NEAR and np.abs(found - 1.0).max() < WIDE:
            return unit if unit != "eV" else None
    return None
