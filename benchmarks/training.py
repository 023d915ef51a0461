"""Training against Amp: one loss-and-gradient evaluation, and on ranks; optimisers compared.

Run it on a quiet machine, with the interpreter in which Amp is installed::

    python benchmarks/training.py --amp .venv-amp/bin/python
    mpirun -n 2 python benchmarks/training.py --ranks
    python benchmarks/training.py --curves emt400 emt1000 --plot curves.png
    python benchmarks/training.py --curves cu2s water --data FOLDER
    python benchmarks/training.py --curves emt400 --seconds 8 --seeds 1    # a quick look

The last ones train with each optimiser on one core and print the CPU seconds after which the
errors on images that were held out are small enough, medians over seeds of the weights, and
the errors at the end. FOLDER holds cu2s.extxyz and water.extxyz, twenty images each.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cluster import Octahedron
from ase.io import read

from ampmpi import Gaussian, NeuralNetwork, Regressor
from ampmpi.descriptor import make_symmetry_functions
from ampmpi.model.batch import PARTS, Sample, make_batches, part_of
from ampmpi.model.gauss_newton import Residuals
from ampmpi.model.jacobian import Sampling, gauss_newton
from ampmpi.model.loss import Coefficients, ScaledBatch, loss_sums, scale_batch
from ampmpi.model.optimise import StopOptimisation, make_optimiser
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


@dataclass(frozen=True)
class TrainingSet:
    """Images as arrays: parts of those to train on, smallest first, and those held out."""

    elements: list[str]
    hidden: tuple[int, ...]
    parts: list[list[ScaledBatch]]
    held_out: list[ScaledBatch]
    ranges: dict

    def up_to(self, part: int) -> list[ScaledBatch]:
        """Return the images of a part of the set."""
        return [batch for some in self.parts[: PARTS + 1 - part] for batch in some]


def emt(n_bulk: int, n_clusters: int, data: Path) -> TrainingSet:
    """Return EMT images of `accuracy.py`; of those held out the ones inside the trained range."""
    import accuracy

    descriptor = accuracy.calculator().descriptor.resolve(accuracy.ELEMENTS)
    images = accuracy.images(n_bulk, n_clusters, seed=11)
    held_out = accuracy.images(100, 100 if n_clusters else 0, seed=13)
    return training_set(descriptor, accuracy.ELEMENTS, (10, 10), images, held_out, inside=True)


def dft(name: str, elements: list[str], offsets: list[float], data: Path) -> TrainingSet:
    """Return twenty images, of which four are held out."""
    functions = make_symmetry_functions(elements, "G2", etas=[4.0, 13.0])
    functions += make_symmetry_functions(elements, "G2", etas=[400.0], offsets=offsets)
    functions += make_symmetry_functions(
        elements, "G4", etas=[0.005, 10.0], zetas=[1.0, 4.0], gammas=[1.0, -1.0]
    )
    descriptor = Gaussian(cutoff=6.0, Gs=dict.fromkeys(elements, functions)).resolve(elements)
    images = read(data / f"{name}.extxyz", ":")
    chosen = np.random.default_rng(0).permutation(len(images))
    first, rest = [images[i] for i in chosen[:16]], [images[i] for i in chosen[16:]]
    return training_set(descriptor, elements, (15, 15), first, rest, inside=False)


SETS: dict[str, tuple[Callable[[Path], TrainingSet], tuple[float, ...]]] = {
    "emt400": (lambda data: emt(200, 200, data), (100.0, 20.0, 10.0, 6.5)),
    "emt1000": (lambda data: emt(1000, 0, data), (100.0, 20.0, 10.0, 8.0)),
    "emt5000": (lambda data: emt(5000, 0, data), (100.0, 20.0, 10.0)),
    "cu2s": (
        lambda data: dft("cu2s", ["Cu", "S"], [2.2, 2.5, 2.8, 3.2, 3.7, 4.2, 4.8], data),
        (30.0, 20.0, 18.0, 16.0),
    ),
    "water": (
        lambda data: dft("water", ["H", "O"], [0.8, 0.95, 1.1, 1.3, 1.6, 1.9, 2.2, 2.6, 3.0], data),
        (200.0, 100.0, 80.0, 60.0),
    ),
}
"""How each set is made, and errors of forces in meV/Å that are waited for."""


def training_set(
    descriptor: Gaussian,
    elements: list[str],
    hidden: tuple[int, ...],
    images: Sequence,
    held_out: Sequence,
    *,
    inside: bool,
) -> TrainingSet:
    """Compute fingerprints and lay them out."""
    sample = descriptor_samples(descriptor)
    known, unknown = list(map(sample, images)), list(map(sample, held_out))
    parts = [
        list(make_batches([one for one in known if part_of(one.key) == part]))
        for part in range(PARTS, -1, -1)
    ]
    ranges = merge_ranges([batch.fprange() for some in parts for batch in some])

    def is_inside(sample: Sample) -> bool:
        return all(
            ((low <= row[: len(low)]) & (row[: len(low)] <= high)).all()
            for symbol, row in zip(
                sample.fingerprint.symbols, sample.fingerprint.values, strict=True
            )
            for low, high in [ranges[symbol].T]
        )

    if inside:
        unknown = list(filter(is_inside, unknown))
    scaled = [[scale_batch(batch, ranges) for batch in some] for some in parts]
    rest = [scale_batch(batch, ranges) for batch in make_batches(unknown)]
    return TrainingSet(elements, hidden, scaled, rest, ranges)


def descriptor_samples(descriptor: Gaussian) -> Callable[..., Sample]:
    """Return what makes a sample of an image."""

    def sample(atoms: object) -> Sample:
        fingerprint, primes = descriptor.calculate(atoms)
        key = hashlib.md5(atoms.positions.tobytes(), usedforsecurity=False).hexdigest()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        return Sample(key, fingerprint, primes, energy, forces)

    return sample


def training_curve(
    images: TrainingSet, optimizer: str, seed: int, seconds: float
) -> list[tuple[float, float, float]]:
    """Train for some CPU seconds; return seconds and errors held out, meV/atom and meV/Å."""
    coefficients, whole = Coefficients(1.0, 0.3), images.up_to(0)
    model = NeuralNetwork(images.hidden, randomseed=seed, prescale=True)
    model.initialise(
        images.ranges,
        np.concatenate([scaled.batch.energies for scaled in whole]),
        np.concatenate([scaled.batch.composition(images.elements) for scaled in whole]),
    )
    network, vector = model.network, model.vector
    loss_sums(network, vector, whole[:1], coefficients)  # loads the kernels
    gauss_newton(network, vector, whole[:1], coefficients, Sampling(0.1))
    n_held_out = sum(scaled.batch.n_images for scaled in images.held_out)
    counts = tuple(
        sum(len(one.batch.image) * 3 + one.batch.n_images for one in images.up_to(part))
        for part in range(PARTS + 1)
    )
    found: list[tuple[float, float, float]] = []
    best: list = [math.inf, math.inf, vector]
    start, aside = time.process_time(), 0.0

    def evaluate(point: np.ndarray, part: int = 0) -> tuple[float, np.ndarray]:
        sums = loss_sums(network, point, images.up_to(part), coefficients)
        loss = coefficients.weighted(sums)
        if loss < best[1] or part < best[0]:
            best[:] = part, loss, point.copy()
        return loss, sums.gradient

    def observe() -> None:
        nonlocal aside
        now = time.process_time()
        spent = now - start - aside
        if found and spent < min(1.05 * found[-1][0] + 0.02, seconds):
            return
        sums = loss_sums(network, best[2], images.held_out, coefficients, gradient=False)
        errors = (1e3 * math.sqrt(total / n_held_out) for total in (sums.energy, sums.force))
        found.append((spent, *errors))
        aside += time.process_time() - now
        if spent >= seconds:
            raise StopOptimisation

    def matrix(point: np.ndarray, part: int, fraction: float, number: int) -> list:
        sampling = Sampling(fraction, seed, number)
        return gauss_newton(network, point, images.up_to(part), coefficients, sampling)

    optimiser = make_optimiser(Regressor(optimizer), vector)
    with contextlib.suppress(StopOptimisation):
        optimiser.run(evaluate, observe, Residuals(counts, matrix, network.curvature_blocks))
    return found


def curves(options: argparse.Namespace) -> None:
    """Compare optimisers on sets of images; the core is this process's own."""
    drawn = {}
    for name in options.curves:
        make, targets = SETS[name]
        images = make(options.data)
        print(f"{name}: CPU seconds to a force rmse in meV/Å, held out; errors at the end")
        print(f"  {'':14s}", *(f"{target:8g}" for target in targets), "  meV/atom    meV/Å")
        for optimizer in options.optimizers:
            runs = [
                training_curve(images, optimizer, seed, options.seconds)
                for seed in range(1, options.seeds + 1)
            ]
            drawn[name, optimizer] = runs
            times = [
                np.median([next((t for t, _, f in run if f <= target), math.inf) for run in runs])
                for target in targets
            ]
            last = np.median([run[-1][1:] for run in runs], axis=0)
            cells = (f"{t:8.2f}" if math.isfinite(t) else f"{'-':>8s}" for t in times)
            print(f"  {optimizer:14s}", *cells, f"{last[0]:10.3f} {last[1]:8.2f}", flush=True)
    if options.plot:
        draw(drawn, options.plot)


def draw(drawn: dict, path: Path) -> None:
    """Draw force errors against seconds, each training a line."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for name, _ in drawn))
    figure = Figure((4.0 * len(names), 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        wanted = [(o, runs) for (n, o), runs in drawn.items() if n == name]
        for color, (optimizer, runs) in enumerate(wanted):
            for number, run in enumerate(runs):
                seconds, _, forces = np.array(run).T
                label = None if number else optimizer
                axes.loglog(seconds, forces, color=f"C{color}", linewidth=1.0, label=label)
        axes.set(title=name, xlabel="CPU time, s", ylabel="held-out force rmse, meV/Å")
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--amp", help="interpreter in which Amp is installed")
    parser.add_argument("--ranks", action="store_true", help="time the ranks of this run")
    parser.add_argument("--curves", nargs="+", choices=sorted(SETS), help="compare optimisers")
    parser.add_argument("--optimizers", nargs="+", default=["L-BFGS-B", "gauss-newton"])
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of each training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each optimiser")
    parser.add_argument("--data", type=Path, default=Path(), help="folder of the DFT images")
    parser.add_argument("--plot", type=Path, help="picture of force errors against seconds")
    options = parser.parse_args()
    if options.curves:
        curves(options)
    elif options.ranks:
        ranks()
    else:
        evaluation(options.amp)
