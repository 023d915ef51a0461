"""Training against Amp: one loss-and-gradient evaluation, and on ranks.

Run it on a quiet machine, with the interpreter in which Amp is installed::

    python benchmarks/training.py --amp .venv-amp/bin/python
    mpirun -n 2 python benchmarks/training.py --ranks
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cluster import Octahedron

from ampmpi import Gaussian, NeuralNetwork
from ampmpi.model.batch import Sample, make_batches
from ampmpi.model.loss import Coefficients, loss_sums, scale_batch
from ampmpi.model.scaling import merge_ranges
from ampmpi.parallel.comm import world
from ampmpi.training.shared_loss import SharedLoss

HIDDEN = (10, 10)

# The same evaluation by Amp: images as JSON on standard input, seconds on standard output.
AMP = """
import contextlib, json, sys, time
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from amp import Amp
from amp.descriptor.gaussian import Gaussian
from amp.model import LossFunction
from amp.model.neuralnetwork import NeuralNetwork
from amp.utilities import Logger, hash_images

rows = json.load(sys.stdin)
atoms = []
for row in rows:
    image = Atoms(numbers=row["numbers"], positions=row["positions"])
    image.calc = SinglePointCalculator(image, energy=row["energy"], forces=np.array(row["forces"]))
    atoms.append(image)
found = []
with contextlib.redirect_stdout(sys.stderr):
    images = hash_images(atoms)
    for fortran, forces, repeats in json.loads(sys.argv[1]):
        loss = LossFunction(
            convergence={"energy_rmse": 1e-4, "force_rmse": 1e-3 if forces else None},
            raise_ConvergenceOccurred=False, log_losses=False,
        )
        model = NeuralNetwork(hiddenlayers=(10, 10), lossfunction=loss, randomseed=1,
                              fortran=fortran)
        calc = Amp(Gaussian(), model, label="amp", cores=1)
        log = Logger(None)
        calc.descriptor.calculate_fingerprints(
            images=images, parallel={"cores": 1}, log=log, calculate_derivatives=forces)
        model.fit(images, calc.descriptor, log, {"cores": 1}, only_setup=True)
        vector = model.vector.copy()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            loss.get_loss(vector, lossprime=True)
            times.append(time.perf_counter() - start)
        found.append(times)
json.dump(found, sys.stdout)
"""


def clusters(n: int, seed: int = 0) -> list:
    """Return Cu/Pt clusters of 13 atoms with EMT's energies and forces."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        atoms = Octahedron("Cu", 3, cutoff=1)
        atoms.numbers[rng.integers(0, 2, len(atoms)).astype(bool)] = 78
        atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        found.append(atoms)
    return found


def best_of(function: Callable[[], object], repeats: int = 30) -> float:
    """Return the shortest of several times, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def scaled_batches(images: list) -> tuple[list, NeuralNetwork]:
    """Return images as batches, and a model with initial parameters."""
    descriptor = Gaussian(elements=["Cu", "Pt"])
    samples = []
    for index, atoms in enumerate(images):
        fingerprint, primes = descriptor.calculate(atoms)
        samples.append(
            Sample(
                f"{index:032x}",
                fingerprint,
                primes,
                atoms.get_potential_energy(),
                atoms.get_forces(),
            )
        )
    batches = list(make_batches(samples))
    model = NeuralNetwork(HIDDEN, randomseed=1)
    model.initialise(
        merge_ranges([batch.fprange() for batch in batches]),
        np.concatenate([batch.energies for batch in batches]),
        np.concatenate([batch.composition(["Cu", "Pt"]) for batch in batches]),
    )
    return [scale_batch(batch, model.fprange) for batch in batches], model


def evaluation(amp: str | None) -> None:
    """Time one evaluation for 60 clusters, here and in Amp."""
    images = clusters(60)
    batches, model = scaled_batches(images)
    network, vector = model.network, model.vector
    print("one loss and gradient, 60 clusters of 13 atoms, (10, 10), one core")
    ours = {}
    for forces in (False, True):
        coefficients = Coefficients() if forces else Coefficients(force=None)
        ours[forces] = best_of(lambda c=coefficients: loss_sums(network, vector, batches, c), 200)
        what = "energies and forces" if forces else "energies"
        print(f"  {what:20s} {1e3 * ours[forces]:8.2f} ms")
    for fortran, forces, first, seconds in amp_times(amp, images) if amp else []:
        what = "energies and forces" if forces else "energies"
        ratio = seconds / ours[forces]
        print(
            f"  Amp, {'Fortran' if fortran else 'Python':7s}  {what:20s} {1e3 * seconds:8.1f} ms, "
            f"{ratio:6.0f} times ours; its first call {1e3 * first:.1f} ms"
        )


def amp_times(amp: str, images: list) -> list[tuple[bool, bool, float, float]]:
    """Time Amp, with Fortran or without, forces or not: the first call, and the best."""
    rows = [
        {
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces().tolist(),
        }
        for atoms in images
    ]
    # without Fortran one call takes half a minute
    cases = [(True, False, 20), (True, True, 5), (False, False, 2), (False, True, 1)]
    with tempfile.TemporaryDirectory() as folder:
        answer = subprocess.run(
            [str(Path(shutil.which(amp) or amp).absolute()), "-c", AMP, json.dumps(cases)],
            input=json.dumps(rows),
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    times = json.loads(answer.stdout)
    return [
        (fortran, forces, found[0], min(found))
        for (fortran, forces, _), found in zip(cases, times, strict=True)
    ]


def ranks(n_images: int = 2000) -> None:
    """Time one evaluation for many clusters on all ranks; compare runs with 1 and 2."""
    comm = world()
    images = clusters(n_images)[comm.rank :: comm.size]
    batches, model = scaled_batches(images)
    # every rank's model has the shape of rank 0's; the values do not matter for the time
    loss = SharedLoss(comm, model.network, Coefficients(), batches, [])
    vector = comm.bcast(model.vector)
    if comm.rank:
        loss.serve()
        return
    seconds = best_of(lambda: loss.evaluate(vector), 10)
    loss.finish()
    print(f"{n_images} clusters on {comm.size} ranks: {1e3 * seconds:.1f} ms per evaluation")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--amp", help="interpreter in which Amp is installed")
    parser.add_argument("--ranks", action="store_true", help="time the ranks of this run")
    options = parser.parse_args()
    if options.ranks:
        ranks()
    else:
        evaluation(options.amp)
