"""Real Amp and this package agree on splits, annealing, pictures' numbers and ensembles."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from systems import images, with_energies

from ampmpi import Amp, Committee, Gaussian, LossFunction, NeuralNetwork
from ampmpi.amp.analysis import calc_rmse, plot_parity_and_error, plot_sensitivity
from ampmpi.amp.descriptor.analysis import FingerprintPlot
from ampmpi.amp.model.neuralnetwork import NodePlot
from ampmpi.amp.stats.bootstrap import BootStrap
from ampmpi.amp.utilities import Annealer, Logger, get_hash, hash_images, randomize_images

SIDE = Path(__file__).with_name("analysis_side.py")
NAMES = ("bulk", "molecule", "mixed pbc", "cluster")

CALC_TEXT = """
from amp import Amp
from amp.descriptor.cutoffs import Cosine
from amp.descriptor.gaussian import Gaussian
from amp.model import LossFunction
from amp.model.neuralnetwork import NeuralNetwork

calc = Amp(descriptor=Gaussian(cutoff=Cosine(4.0)),
           model=NeuralNetwork(hiddenlayers=(2,), randomseed=3), dblabel="../amp-db", cores=1)
calc.model.lossfunction = LossFunction(convergence={"energy_rmse": 0.3, "force_rmse": 5.0})
"""


@pytest.fixture
def atoms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return [with_energies(images()[name]) for name in NAMES]


def an_amp(seed, hidden=(2,), **options):
    loss = LossFunction(convergence={"energy_rmse": 1e-4, "force_rmse": 1e-3}, maxiter=5)
    network = NeuralNetwork(hiddenlayers=hidden, randomseed=seed, lossfunction=loss)
    return Amp(Gaussian(cutoff=4.0), network, label=f"a{seed}", **options)


@pytest.fixture
def trained(atoms):
    """Return three calculators that were trained for a few steps, and saved as SEED.amp."""
    found = [an_amp(seed) for seed in (1, 2, 3)]
    for calc in found:
        calc.train(atoms)
        calc.save(f"{calc.model.randomseed}.amp")
    return found


def test_splits_and_duplicates(ask, atoms):
    theirs = ask("split", atoms, seed=7, fraction=0.5)
    np.random.seed(7)  # noqa: NPY002
    train, test = randomize_images(atoms, 0.5)
    hashed = hash_images([*atoms, atoms[0]])
    assert [get_hash(image) for image in train] == theirs["train"]
    assert [get_hash(image) for image in test] == theirs["test"]
    assert list(hashed) == theirs["hashed"]
    assert hashed.metadata["duplicates"] == theirs["duplicates"]


@pytest.mark.parametrize(("Tmax", "Tmin"), [(20.0, 1.0), (1e-3, 1e-4)])
def test_the_same_seeds_anneal_the_same_way(ask, atoms, Tmax, Tmin):
    options = {"Tmax": Tmax, "Tmin": Tmin, "steps": 40}
    theirs = ask(
        "anneal", atoms, seed=5, label="theirs", descriptor={"cutoff": 4.0}, **options
    )  # fmt: skip
    calc = an_amp(5, hidden=(3,))
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    Annealer(calc, atoms, updates=2, **options)
    assert calc.model.vector == pytest.approx(np.array(theirs["vector"]), rel=1e-12)
    # as many random numbers were drawn: each move was taken or left as there
    assert [random.random(), np.random.rand()] == theirs["draw"]  # noqa: NPY002


def test_numbers_of_the_pictures(ask, atoms, trained):
    trained[0].save("10.amp")
    theirs = ask("pictures", atoms, file="10.amp")
    energies, forces = plot_parity_and_error("10.amp", atoms, returndata=True, overwrite=True)
    assert set(energies) == set(theirs["energies"])
    for key, row in theirs["energies"].items():
        assert energies[key] == pytest.approx(row, rel=1e-10, abs=1e-10)
        assert np.array(forces[key]) == pytest.approx(np.array(theirs["forces"][key]), abs=1e-10)
    ours = calc_rmse(["10.amp"], atoms)
    assert set(ours) == set(theirs["rmse"])
    for key, values in theirs["rmse"].items():
        assert ours[key] == pytest.approx(values, rel=1e-9), key


def test_sensitivity(ask, atoms, trained):
    """Amp draws the energies' loss alone, as its loss function has no criterion for forces."""
    theirs = np.array(ask("sensitivity", atoms, file="1.amp", d=1e-3))
    losses = plot_sensitivity("1.amp", atoms, d=1e-3, force_coefficient=0.0, overwrite=True)
    assert losses == pytest.approx(theirs, rel=1e-9)


def test_features_and_nodes(ask, atoms, trained):
    theirs = ask("nodes", atoms, file="1.amp")
    calc = Amp.load("1.amp")
    features, nodes = FingerprintPlot(calc), NodePlot(calc)
    features(atoms)
    nodes.plot(atoms)
    for element, rows in theirs["features"].items():
        assert features.data[element] == pytest.approx(np.array(rows), rel=1e-12, abs=1e-12)
        table = np.array(theirs["nodes"][element])
        assert nodes.data[element]["table"] == pytest.approx(table, rel=1e-10, abs=1e-10)


def test_amp_loads_our_ensembles(ask, atoms, trained):
    Committee(trained).save("ours.ensemble")
    output = [0.05, 0.5, 0.95, "e"]
    theirs = ask("ensemble", atoms, file="ours.ensemble", output=output)
    compare(theirs, BootStrap("ours.ensemble", log=Logger(None)), atoms, output)


def compare(theirs, calc, atoms, output):
    for image, answer in zip(atoms, theirs, strict=True):
        *quantiles, everything = calc.get_potential_energy(image, output)
        assert quantiles == pytest.approx(answer["energy"][:-1], rel=1e-10, abs=1e-10)
        assert everything == pytest.approx(np.array(answer["energy"][-1]), rel=1e-10, abs=1e-10)
        assert calc.get_potential_energy(image) == pytest.approx(answer["mean"], abs=1e-10)
        for name, ours in (
            ("forces", calc.get_forces(image, output)),
            ("atomic", calc.get_atomic_energies(image, output)),
        ):
            for part, right in zip(ours, answer[name], strict=True):
                assert part == pytest.approx(np.array(right), rel=1e-10, abs=1e-10)


def test_ensembles_that_amp_trains(ask, amp_python, atoms):
    options = {"n": 2, "calc_text": CALC_TEXT, "label": "theirs", "seed": 2}
    done = ask("bundle", atoms, start_command=f"{amp_python} run.py", **options)
    assert done == [{"complete": False, "n_converged": 0}, {"complete": True}]
    output = [0.05, 0.5, 0.95, "e"]
    theirs = ask("ensemble", atoms, file="theirs.ensemble", output=output)
    compare(theirs, BootStrap("theirs.ensemble", log=Logger(None)), atoms, output)


def test_the_same_script_trains_an_ensemble_here(ask, amp_python, atoms, tmp_path):
    """The draws of the images are the same; so are the calculators' ranges."""
    script = f"""
import numpy as np
from amp.stats.bootstrap import BootStrap
from amp.utilities import Logger

calc_text = '''{CALC_TEXT}'''
calc = BootStrap(log=Logger("bootstrap.log"))
np.random.seed(2)
for _ in range(2):
    results = calc.train(images="training.traj", n=2, calc_text=calc_text,
                         start_command="python run.py", label="ours", archive=False)
assert results["complete"]
"""
    options = {"n": 2, "calc_text": CALC_TEXT, "label": "theirs", "seed": 2}
    ask("bundle", atoms, start_command=f"{amp_python} run.py", **options)
    Path("script.py").write_text(script)
    subprocess.run(
        [sys.executable, "-m", "ampmpi", "run", "script.py"], check=True, timeout=300
    )  # fmt: skip
    for ours, theirs in zip(
        BootStrap("ours.ensemble", log=Logger(None)).ensemble,
        BootStrap("theirs.ensemble", log=Logger(None)).ensemble,
        strict=True,
    ):
        for element, ranges in theirs.model.fprange.items():
            assert ours.model.fprange[element] == pytest.approx(ranges, rel=1e-12)
