"""Energies that are in another unit than they are taken for."""

from __future__ import annotations

import numpy as np
import pytest
from ase.units import Hartree, Rydberg, kcal, kJ, mol

from ampmpi.images.all_electron import likely_energy_unit
from ampmpi.images.doubts import Facts, label_doubts

# CH4, NH3 and H2O of QM9, B3LYP, Hartree: total energies at 0 K.
MOLECULES = np.array([-40.47893, -56.525887, -76.404702])
ATOMS = np.array([[1.0, 4.0, 0.0, 0.0], [0.0, 3.0, 1.0, 0.0], [0.0, 2.0, 0.0, 1.0]])
ELEMENTS = ("C", "H", "N", "O")


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        (None, 1.0),
        ("Hartree", Hartree),
        ("Ry", Rydberg),
        ("kcal/mol", kcal / mol),
        ("kJ/mol", kJ / mol),
    ],
)
def test_energies_of_all_electrons_tell_their_unit(unit, value):
    in_file = MOLECULES * Hartree / value
    assert likely_energy_unit(in_file, ATOMS, ELEMENTS) == unit
    in_file[1] = np.nan
    assert likely_energy_unit(in_file, ATOMS, ELEMENTS) == unit


@pytest.mark.parametrize(
    ("energies", "composition", "elements"),
    [
        ([-24.04, -19.54, -14.22], ATOMS, ELEMENTS),  # of VASP
        ([-17.1 * Hartree], [[2.0, 1.0]], ("H", "O")),  # of CP2K's pseudopotentials
        ([-1.17], [[2.0]], ("H",)),  # too light to tell
        ([-40.5], [[1.0]], ("Cu",)),  # no atom to compare with
        ([-40.47893, 3.0], [[1.0, 4.0], [1.0, 4.0]], ("C", "H")),  # one does not fit
        ([], np.empty((0, 1)), ("C",)),
    ],
)
def test_other_energies_tell_nothing(energies, composition, elements):
    assert likely_energy_unit(np.array(energies), np.array(composition), elements) is None


def test_a_set_in_hartree_is_suspicious():
    indices = np.arange(3)
    keys = np.array([b"a", b"b", b"c"])
    forces = np.full(3, np.nan)
    facts = Facts(indices, keys, MOLECULES, forces, ATOMS, ELEMENTS)
    [doubt] = label_doubts(facts, str)
    assert "in Hartree: --units Hartree,A reads them so" in doubt
    right = Facts(indices, keys, MOLECULES * Hartree, forces, ATOMS, ELEMENTS)
    assert label_doubts(right, str) == []
