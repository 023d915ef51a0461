"""Hashes, fingerprints and primes equal Amp's."""

from __future__ import annotations

import numpy as np
import pytest
from amp_form import amp_form, assert_close, received
from ase import Atoms
from ase.build import bulk
from systems import (
    alloy,
    descriptors,
    images,
    organic,
    random_descriptor,
    random_image,
    shaken,
)

from ampmpi import Gaussian, hash_image, make_symmetry_functions

SETTINGS = descriptors()
CASES = [*((name, "Cu Pt") for name in SETTINGS), ("organic", "C H O")]


@pytest.fixture(scope="module")
def amps_values(amp, tmp_path_factory):
    """Return, for each case, the images by hash and Amp's entries."""
    folder = tmp_path_factory.mktemp("values")
    answers = {}
    for number, (case, _) in enumerate(CASES):
        settings = SETTINGS.get(case, {"cutoff": 4.0, "elements": ["O", "C", "H"]})
        atoms = {"ethanol": organic()} if case == "organic" else images()
        answers[case] = (
            settings,
            atoms,
            amp(
                "write",
                list(atoms.values()),
                descriptor=settings,
                dblabel=str(folder / str(number)),
                derivatives=True,
            ),
        )
    return answers


def test_hashes_are_amps(amp):
    atoms = [*images().values(), organic()]
    turned = Atoms("Cu", positions=[(-0.0, 1e-16, 1 / 3)], cell=np.diag([3, 1e3, 0]), pbc=[1, 0, 1])
    atoms.append(turned)
    assert [hash_image(image) for image in atoms] == amp("hashes", atoms)


@pytest.mark.parametrize("case", [case for case, _ in CASES])
def test_values_are_amps(amps_values, case):
    settings, atoms, answer = amps_values[case]
    gaussian = Gaussian(**settings)
    for name, image in atoms.items():
        key = hash_image(image)
        fingerprint, primes = gaussian.calculate(image)
        print(name)  # shown when the comparison fails
        alone = gaussian.fingerprint(image)
        assert_close(amp_form(alone), received(answer["fingerprints"][key]), 1e-12)
        assert_close(amp_form(fingerprint), received(answer["fingerprints"][key]), 1e-12)
        assert_close(amp_form(primes), received(answer["fingerprint-primes"][key]), 1e-11)
        assert gaussian.fingerprint_primes(image) == primes


@pytest.mark.parametrize("seed", range(8))
def test_random_values_are_amps(amp, tmp_path, seed):
    rng = np.random.default_rng(seed)
    settings = random_descriptor(rng)
    atoms = [random_image(rng) for _ in range(6)]
    answer = amp(
        "write", atoms, descriptor=settings, dblabel=str(tmp_path / "random"), derivatives=True
    )
    gaussian = Gaussian(**settings)
    for image in atoms:
        key = hash_image(image)
        fingerprint, primes = gaussian.calculate(image)
        assert_close(amp_form(fingerprint), received(answer["fingerprints"][key]), 1e-12)
        assert_close(amp_form(primes), received(answer["fingerprint-primes"][key]), 1e-11)


@pytest.mark.parametrize("cutoff", [2.0, 10.0])
def test_the_smallest_and_the_largest_cutoff(amp, tmp_path, cutoff):
    atoms = images()["cell edge below the cutoff"] * (1, 1, 2)
    atoms.numbers[0] = 29
    atoms = shaken(atoms, 7, 0.2)
    atoms.set_cell(atoms.cell[:] * 0.75, scale_atoms=True)
    settings = {"cutoff": cutoff, "elements": ["Cu", "Pt"]}
    answer = amp(
        "write", [atoms], descriptor=settings, dblabel=str(tmp_path / "x"), derivatives=True
    )
    near = np.diff(Gaussian(**settings).surroundings(atoms).neighbors.start)
    assert near.min() > (0 if cutoff == 2.0 else 600)
    fingerprint, primes = Gaussian(**settings).calculate(atoms)
    key = hash_image(atoms)
    assert_close(amp_form(fingerprint), received(answer["fingerprints"][key]), 1e-12)
    assert_close(amp_form(primes), received(answer["fingerprint-primes"][key]), 1e-11)


def test_five_hundred_atoms(amp, tmp_path):
    atoms = alloy(shaken(bulk("Cu", "fcc", a=3.75, cubic=True) * (5, 5, 5), 8))
    settings = {"cutoff": 6.5, "elements": ["Cu", "Pt"]}
    answer = amp(
        "write", [atoms], descriptor=settings, dblabel=str(tmp_path / "x"), derivatives=False
    )
    ours = amp_form(Gaussian(**settings).fingerprint(atoms))
    assert len(ours) == 500
    assert_close(ours, received(answer["fingerprints"][hash_image(atoms)]), 1e-12)


@pytest.mark.parametrize("case", [case for case, _ in CASES])
def test_parameters_are_amps(amps_values, case):
    settings, _, answer = amps_values[case]
    gaussian = Gaussian(**settings)
    parameters = gaussian.parameters
    amps = answer["parameters"]
    assert parameters["importname"] == amps["importname"]
    assert parameters["mode"] == amps["mode"]
    assert parameters["cutoff"] == amps["cutoff"]
    assert list(parameters["elements"]) == amps["elements"]
    assert {element: list(map(dict, gs)) for element, gs in parameters["Gs"].items()} == amps["Gs"]


def test_helper_makes_the_functions_in_amps_order():
    made = make_symmetry_functions(
        elements=["Pt", "Cu"], type="G4", etas=[0.1], zetas=[1.0, 2.0], gammas=[-1.0]
    )
    pairs = [["Pt", "Pt"], ["Cu", "Pt"], ["Cu", "Cu"]]
    expected = [
        {"type": "G4", "elements": pair, "eta": 0.1, "gamma": -1.0, "zeta": zeta}
        for zeta in (1.0, 2.0)
        for pair in pairs
    ]
    assert [{**function} for function in made] == expected
