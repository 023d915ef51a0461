"""Zernike: values, databases and potentials go both ways between Amp and this package."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from amp_form import amp_form, assert_close, received
from systems import images, zernike_descriptors
from test_training import SIDE, training_images  # noqa: F401 - SIDE is for the fixture `ask`

from ampmpi import (
    Amp,
    FingerprintDatabase,
    LossFunction,
    NeuralNetwork,
    Zernike,
    fingerprint,
    hash_image,
)
from ampmpi.errors import TrainingConvergenceError

SETTINGS = zernike_descriptors()
NAMES = ("slab", "molecule", "mixed pbc", "no neighbours", "cell edge below the cutoff")
KINDS = ("fingerprints", "fingerprint-primes")


def some_images():
    return [images()[name] for name in NAMES]


@pytest.mark.parametrize("case", ["nmax 3", "own weights"])
def test_values_and_databases_of_amp(amp, tmp_path, case):
    """What Amp's Python computed and kept is what we compute, and is used by our jobs."""
    label = str(tmp_path / "amps")
    answer = amp(
        "write",
        some_images(),
        kind="Zernike",
        descriptor={**SETTINGS[case], "fortran": False},
        dblabel=label,
        derivatives=True,
        archive=True,
    )
    zernike = Zernike(**SETTINGS[case])
    assert answer["parameters"] == zernike.parameters
    summary = fingerprint(some_images(), zernike, label=label, derivatives=True)
    assert (summary.computed, summary.found) == (0, len(NAMES))
    for kind, tolerance, place in zip(KINDS, (1e-12, 1e-11), (0, 1), strict=True):
        with FingerprintDatabase(f"{label}-{kind}.ampdb") as database:
            kept = {key: amp_form(database[key]) for key in answer[kind]}
        for key, rows in answer[kind].items():
            assert kept[key] == received(rows)
        for atoms in some_images():
            found = amp_form(zernike.calculate(atoms)[place])
            assert_close(found, received(answer[kind][hash_image(atoms)]), tolerance)


def test_amps_fortran_agrees_with_its_default_weights(amp, tmp_path):
    atoms = [images()["cluster"]]
    settings = {"cutoff": 6.5, "elements": ["Cu", "Pt"]}
    answer = amp("write", atoms, kind="Zernike", descriptor=settings,
                 dblabel=str(tmp_path / "x"), derivatives=True)  # fmt: skip
    values, primes = Zernike(**settings).calculate(atoms[0])
    (rows,) = answer["fingerprints"].values()
    assert_close(amp_form(values), received(rows), 1e-12)
    (rows,) = answer["fingerprint-primes"].values()
    assert_close(amp_form(primes), received(rows), 1e-11)


def test_amp_uses_what_our_job_wrote(amp, tmp_path):
    """Amp asks its database first: what it gets back are our numbers, bit by bit."""
    label = str(tmp_path / "ours")
    settings = SETTINGS["nmax 3"]
    fingerprint(some_images(), Zernike(**settings), label=label, derivatives=True)
    expected = {}
    for kind in KINDS:
        with FingerprintDatabase(f"{label}-{kind}.ampdb") as database:
            expected[kind] = {key: amp_form(entry) for key, entry in database.items()}
    answer = amp("write", some_images(), kind="Zernike", descriptor=settings,
                 dblabel=label, derivatives=True)  # fmt: skip
    for kind in KINDS:
        assert {key: received(rows) for key, rows in answer[kind].items()} == expected[kind]


def test_amp_predicts_the_same_from_our_file(ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = training_images()
    loss = LossFunction(
        convergence={"energy_rmse": 1e-6, "force_rmse": 1e-6}, force_coefficient=0.1, maxiter=10
    )
    model = NeuralNetwork(hiddenlayers=(5,), lossfunction=loss, randomseed=1)
    calculator = Amp(Zernike(cutoff=4.5, nmax=3), model, label="ours")
    with contextlib.suppress(TrainingConvergenceError):
        calculator.train(atoms)
    calculator.save("ours-final.amp", overwrite=True)
    predicted = ask("predict", atoms, file="ours-final.amp")
    for image, (energy, forces) in zip(atoms, predicted, strict=True):
        copy = image.copy()
        copy.calc = calculator
        assert copy.get_potential_energy() == pytest.approx(energy, abs=1e-10)
        np.testing.assert_allclose(copy.get_forces(), forces, rtol=0, atol=1e-9)


def test_we_predict_the_same_from_amps_file(ask, tmp_path):
    atoms = training_images()
    settings = {"cutoff": 4.5, "nmax": 3, "elements": ["Cu", "Pt"]}
    ask(
        "losses",
        atoms,
        kind="Zernike",
        descriptor=settings,
        hiddenlayers=[4, 3],
        activation="tanh",
        forces=True,
        overfit=0.0,
        fortran=True,
        energy_coefficient=1.0,
        force_coefficient=0.04,
        weight_duplicates=True,
        seed=2,
        label="amps",
        scales=[0.0],
    )
    predicted = ask("predict", atoms, file="amps-saved.amp")
    loaded = Amp.load(tmp_path / "amps-saved.amp")
    assert loaded.descriptor.digest == Zernike(**settings).digest
    for image, (energy, forces) in zip(atoms, predicted, strict=True):
        copy = image.copy()
        copy.calc = loaded
        assert copy.get_potential_energy() == pytest.approx(energy, abs=1e-10)
        np.testing.assert_allclose(copy.get_forces(), forces, rtol=0, atol=1e-9)
