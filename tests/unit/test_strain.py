"""Derivatives of features by strain: against strained images, and against the virial."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111

from ampmpi.descriptor import Gaussian, Zernike, make_symmetry_functions, strain_derivatives
from ampmpi.descriptor.protocol import VOIGT, virial_by_differences

ELEMENTS = ["Cu", "Pt"]


def images():
    rng = np.random.default_rng(0)
    found = {
        "bulk": bulk("Cu", cubic=True, a=3.7) * (2, 1, 1),
        "thin": bulk("Cu", a=3.6) * (2, 1, 1),  # a cell smaller than the cutoff
        "one atom": bulk("Cu", a=3.6),
        "slab": fcc111("Cu", (2, 2, 2), vacuum=4.0),
        "cluster": Atoms("Cu5", positions=rng.random((5, 3)) * 4),
    }
    for atoms in found.values():
        atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
        atoms.numbers[::3] = 78
    return found


def descriptors():
    rich = make_symmetry_functions(ELEMENTS, "G2", [0.05, 4.0], offsets=[0.0, 1.5])
    rich += make_symmetry_functions(ELEMENTS, "G4", [0.005, 2.0], zetas=[1, 2.5], gammas=[1, -1])
    few = make_symmetry_functions(ELEMENTS, "G5", [0.1], zetas=[3], gammas=[0.5])
    return {
        "default": Gaussian(4.5, elements=ELEMENTS),
        "rich": Gaussian(4.0, {"Cu": rich, "Pt": few}, elements=ELEMENTS),
        "zernike": Zernike(4.5, elements=ELEMENTS),
    }


@pytest.fixture(params=images())
def atoms(request):
    return images()[request.param]


@pytest.fixture(params=descriptors())
def descriptor(request):
    return descriptors()[request.param]


def strained(atoms, a, b, strain):
    """An image with a symmetric strain: of an off-diagonal component both halves."""
    deformation = np.eye(3)
    deformation[a, b] += strain / 2
    deformation[b, a] += strain / 2
    copy = atoms.copy()
    copy.cell[:] = atoms.cell.array @ deformation
    copy.positions[:] = atoms.positions @ deformation
    return copy


def test_they_are_the_derivatives_by_strain(descriptor, atoms):
    found = descriptor.strain_derivatives(atoms)
    assert found.shape == (len(atoms), 6, descriptor.fingerprint(atoms).values.shape[1])
    h = 5e-6
    for v, (a, b) in enumerate(VOIGT):
        at = {
            step: descriptor.fingerprint(strained(atoms, a, b, step * h)).values
            for step in (-2, -1, 1, 2)
        }
        numerical = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
        scale = np.abs(found).max()
        np.testing.assert_allclose(found[:, v], numerical, rtol=1e-7, atol=1e-9 * scale)


def test_contracted_they_are_the_virial(descriptor, atoms):
    found = descriptor.strain_derivatives(atoms)
    dE_dG = np.random.default_rng(3).normal(size=(found.shape[0], found.shape[2]))
    virial = descriptor.contract(atoms, dE_dG)[1]
    contracted = np.einsum("nvf,nf->v", found, dE_dG)
    expected = [virial[a, b] for a, b in VOIGT]
    np.testing.assert_allclose(contracted, expected, rtol=0, atol=1e-12 * np.abs(virial).max())


def test_a_descriptor_without_its_own_gets_them_by_differences():
    atoms, whole = images()["thin"], descriptors()["rich"]
    plain = SimpleNamespace(fingerprint=whole.fingerprint)
    own = whole.strain_derivatives(atoms)
    found = strain_derivatives(plain, atoms)
    np.testing.assert_allclose(found, own, rtol=1e-6, atol=1e-8 * np.abs(own).max())
    dE_dG = np.random.default_rng(3).normal(size=(own.shape[0], own.shape[2]))
    virial = whole.contract(atoms, dE_dG)[1]
    by_differences = virial_by_differences(plain, atoms, dE_dG)
    np.testing.assert_allclose(by_differences, virial, atol=1e-7 * np.abs(virial).max())


def test_a_lone_atom_is_strained_without_effect():
    assert not descriptors()["default"].strain_derivatives(Atoms("Cu")).any()
