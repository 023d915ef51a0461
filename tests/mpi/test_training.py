"""Training on ranks: the same numbers as alone, and restarts that end the same."""

from __future__ import annotations

import re
import signal
import time

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from conftest import AMPMPI, finish, make_images, run, start

from ampmpi import Amp, Gaussian, LossFunction, NeuralNetwork, Regressor, fingerprint
from ampmpi.errors import ImageError, InputError, TrainingConvergenceError
from ampmpi.images.weights import Weighting
from ampmpi.model.jacobian import Sampling
from ampmpi.parallel.comm import SerialCommunicator
from ampmpi.training.dataset import survey
from ampmpi.training.fit import initial_loss
from ampmpi.training.pool import open_pool
from ampmpi.training.shares import Source, load

pytestmark = pytest.mark.mpi
CUTOFF = 4.5


def training_images(n=14, seed=0):
    images = make_images(n, seed)
    for atoms in images:
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return images


SOON = Regressor("gauss-newton", {"options": {"start": 4, "block": 4}})
"""An optimiser that computes the Gauss-Newton matrix in twelve steps twice."""


def make_model(maxiter=12, regressor=None):
    loss = LossFunction(convergence={"energy_rmse": 1e-9, "force_rmse": 1e-9}, maxiter=maxiter)
    regressor = regressor or Regressor("L-BFGS-B")
    return NeuralNetwork(
        (6, 5), randomseed=3, lossfunction=loss, regressor=regressor, prescale=True
    )


@pytest.fixture
def trajectory(comm, shared_path):
    path = shared_path / "images.traj"
    if comm.rank == 0:
        write(path, training_images(), parallel=False)
    comm.barrier()
    return str(path)


def totals(ranks, trajectory, label, forces, *, resident=True, recompute=False, weighting=None):
    """Loss and gradient at the initial parameters, then the validation loss, on rank 0."""
    model = make_model()
    if not forces:
        model.lossfunction = LossFunction()
    dataset = survey(
        ranks, open_pool(ranks, trajectory), forces=forces, fraction=0.3, seed=1,
        weighting=weighting,
    )  # fmt: skip
    descriptor = Gaussian(cutoff=CUTOFF).resolve(dataset.elements)
    fingerprint(trajectory, descriptor, label=label, derivatives=forces, comm=ranks, compress=False)
    primes = f"{label}-fingerprint-primes.ampdb" if forces else None
    source = Source(f"{label}-fingerprints.ampdb", primes, descriptor, recompute)
    prepared = load(ranks, dataset, source, model.lossfunction, resident=resident)
    loss = initial_loss(ranks, prepared, model)
    if ranks.rank:
        loss.serve()
        return None
    vector = model.vector
    found = [loss.evaluate(vector), loss.evaluate(vector, "validation", gradient=False)]
    if forces:
        found.append(loss.evaluate(vector, part=1))
        sampling = Sampling(0.4, seed=2, round=1)
        matrices = [loss.gauss_newton(vector, sampling, part) for part in (0, 1)]
        # whose forces these are does not depend on who has them
        found += [found[0]._replace(gradient=matrix) for (matrix,) in matrices]
    loss.finish()
    return found


def assert_same(totals, others, rel):
    for a, b in zip(totals, others, strict=True):
        assert a.energy == pytest.approx(b.energy, rel=rel, abs=0.0)
        assert a.force == pytest.approx(b.force, rel=rel, abs=0.0)
        assert a.energy_squares == pytest.approx(b.energy_squares, rel=rel, abs=0.0)
        assert a.force_squares == pytest.approx(b.force_squares, rel=rel, abs=0.0)
        assert a.energy_maxresid == pytest.approx(b.energy_maxresid, rel=rel, abs=0.0)
        assert a.force_maxresid == pytest.approx(b.force_maxresid, rel=rel, abs=0.0)
        scale = np.abs(b.gradient).max(initial=0.0)
        np.testing.assert_allclose(a.gradient, b.gradient, rtol=rel, atol=rel * scale)


@pytest.mark.parametrize("forces", [True, False])
def test_loss_and_gradient_are_those_of_one_rank(comm, shared_path, trajectory, forces):
    many = totals(comm, trajectory, shared_path / "many", forces)
    if comm.rank == 0:
        alone = totals(SerialCommunicator(), trajectory, shared_path / "alone", forces)
        assert_same(many, alone, 1e-10)
        assert np.abs(alone[0].gradient).max() > 0
        assert (alone[0].force > 0) == forces
    comm.barrier()


def test_a_weighted_loss_is_that_of_one_rank(comm, shared_path):
    path, weighting = (
        shared_path / "weighted.extxyz",
        Weighting(types={"odd": 3.0}, atom_key="trust"),
    )
    if comm.rank == 0:
        images = training_images()
        for number, atoms in enumerate(images):
            atoms.info["config_type"] = "odd" if number % 2 else "even"
            atoms.info["config_energy_weight"] = 0.0 if number == 3 else 1.0 + number
            atoms.arrays["trust"] = np.linspace(0.0, 2.0, len(atoms))
        write(path, images, parallel=False)
    comm.barrier()
    many = totals(comm, str(path), shared_path / "many", forces=True, weighting=weighting)
    if comm.rank == 0:
        alone = SerialCommunicator()
        one = totals(alone, str(path), shared_path / "one", forces=True, weighting=weighting)
        assert_same(many, one, 1e-10)
        assert one[0].energy > 2 * one[0].energy_squares > 0
    comm.barrier()


def test_a_misspelt_type_is_refused_on_every_rank(comm, shared_path, trajectory):
    calculator = Amp(Gaussian(cutoff=CUTOFF), make_model(3), label=str(shared_path / "t"))
    with pytest.raises(InputError, match="no image has the config_type 'odd'"):
        calculator.train(trajectory, type_weights={"odd": 2.0}, comm=comm)


@pytest.mark.parametrize("recompute", [False, True])
def test_derivatives_that_do_not_fit_give_the_same(comm, shared_path, trajectory, recompute):
    label = shared_path / "t"
    whole = totals(comm, trajectory, label, forces=True)
    passes = totals(comm, trajectory, label, forces=True, resident=False, recompute=recompute)
    if comm.rank == 0:
        assert_same(passes, whole, 1e-10 if recompute else 0.0)
    comm.barrier()


@pytest.mark.parametrize("regressor", [Regressor("L-BFGS-B"), SOON], ids=repr)
def test_every_rank_has_the_calculator_that_one_rank_finds(
    comm, shared_path, trajectory, regressor
):
    images = training_images()
    model = make_model(regressor=regressor)
    calculator = Amp(Gaussian(cutoff=CUTOFF), model, label=str(shared_path / "many"))
    result = calculator.train(images, validation=training_images(4, seed=5), comm=comm)
    assert result.steps == 12
    vectors = comm.allgather(calculator.model.vector)
    assert all(np.array_equal(vector, vectors[0]) for vector in vectors)
    if comm.rank == 0:
        model = make_model(regressor=regressor)
        alone = Amp(Gaussian(cutoff=CUTOFF), model, label=str(shared_path / "alone"))
        again = alone.train(
            images, validation=training_images(4, seed=5), comm=SerialCommunicator()
        )
        assert result.best.loss == pytest.approx(again.best.loss, rel=1e-7)
        assert result.best.val_loss == pytest.approx(again.best.val_loss, rel=1e-7)
        np.testing.assert_allclose(vectors[0], alone.model.vector, rtol=1e-6, atol=1e-8)
    comm.barrier()


def test_inputs_scaled_by_deviation_are_those_of_one_rank(comm, shared_path):
    images, vectors = training_images(8), []
    for ranks, label in ((comm, "many"), (SerialCommunicator(), "alone")):
        if ranks is comm or comm.rank == 0:
            model = make_model(6)
            model.scale_features, model.constant_features = "deviation", "drop"
            calculator = Amp(Gaussian(cutoff=CUTOFF), model, label=str(shared_path / label))
            calculator.train(images, comm=ranks, compress=False)
            vectors.append(model.vector)
    everywhere = comm.allgather(vectors[0])
    assert all(np.array_equal(vector, everywhere[0]) for vector in everywhere)
    if comm.rank == 0:
        np.testing.assert_allclose(vectors[0], vectors[1], rtol=1e-6, atol=1e-8)
    comm.barrier()


def test_more_ranks_than_images(comm, shared_path):
    calculator = Amp(Gaussian(cutoff=CUTOFF), make_model(3), label=str(shared_path / "few"))
    assert calculator.train(training_images(2), comm=comm).steps == 3


def test_a_bad_image_is_named_on_every_rank(comm, shared_path):
    images = training_images(7)
    images[5].calc = None
    calculator = Amp(Gaussian(cutoff=CUTOFF), make_model(), label=str(shared_path / "bad"))
    with pytest.raises(ImageError, match="image 5 has no energy"):
        calculator.train(images, comm=comm)
    comm.barrier()


@pytest.mark.parametrize(
    ("given", "options", "reason"),
    [
        ([], {}, "there is no image to train on"),
        (None, {"validation": 3}, "images is of type int"),
        (None, {"validation_fraction": 2}, "validation fraction is 2"),
        (None, {"validation_fraction": 0.2, "validation": []}, "are given; leave one"),
        (None, {"memory": "2GB"}, "memory is '2GB'"),
    ],
)
def test_an_error_of_all_ranks_can_be_caught(comm, shared_path, given, options, reason):
    images = training_images(7) if given is None else given
    calculator = Amp(Gaussian(cutoff=CUTOFF), make_model(), label=str(shared_path / "caught"))
    with pytest.raises(InputError, match=reason):
        calculator.train(images, comm=comm, **options)
    comm.barrier()


def test_a_training_that_stalls_can_be_caught(comm, shared_path):
    model = make_model(1000)
    model.regressor.optimizer_kwargs["options"] = {"gtol": 100.0}
    calculator = Amp(Gaussian(cutoff=CUTOFF), model, label=str(shared_path / "stalled"))
    with pytest.raises(TrainingConvergenceError, match="did not reach its criteria"):
        calculator.train(training_images(7), comm=comm)
    comm.barrier()


def test_labels_of_ranks_that_differ_are_named(comm, shared_path):
    if comm.size == 1:
        pytest.skip("needs two ranks")
    label = str(shared_path / f"of-rank-{comm.rank}")
    calculator = Amp(Gaussian(cutoff=CUTOFF), make_model(), label=label)
    with pytest.raises(InputError, match="train with different labels"):
        calculator.train(training_images(3), comm=comm)
    assert not list(shared_path.glob("of-rank*"))
    comm.barrier()


def test_a_rank_that_finds_an_unknown_element_tells_all(comm, shared_path):
    images = training_images(7)
    for image in images:
        results = image.calc.results
        image.numbers[:] = 29
        image.calc = SinglePointCalculator(image, **results)
    calculator = Amp(
        Gaussian(cutoff=CUTOFF, elements=["Cu", "Pt"]), make_model(), label=str(shared_path / "u")
    )
    with pytest.raises(InputError, match="image 0 is to validate on and holds Pt, which no image"):
        calculator.train(images, validation=training_images(1), comm=comm)
    comm.barrier()


COMMAND = ["train", "images.traj", "--label", "t", "--cutoff", "4.5", "--max-steps", "1500"]
COMMAND += ["--validation-fraction", "0.2", "--checkpoint-every", "25"]


# The command with a rank 0 that is killed as soon as it has recorded a step.
KILLED = """
import os, signal
from ampmpi.training.curve import Curve
append = Curve.append
def killed_after(self, step):
    append(self, step)
    if step.step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
Curve.append = killed_after
from ampmpi.cli.main import ampmpi
ampmpi()
"""


def curve(path):
    """The learning curve without its times."""
    return [line.rsplit(" ", 1)[0] for line in path.read_text().splitlines()]


@pytest.mark.starts_jobs
@pytest.mark.parametrize("ranks", [0, 2])
def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path, ranks):
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
        write(folder / "images.traj", training_images())
    result = run(COMMAND, ranks, folders[0])
    assert result.code == 0, result.err
    steps = len(curve(folders[0] / "t-curve.txt")) - 1
    assert steps > 100
    for step in (40, steps * 3 // 4):
        killed = finish(start(["-c", KILLED.format(step=step), *COMMAND], ranks, folders[1]))
        assert killed.code != 0
        assert len(curve(folders[1] / "t-curve.txt")) == step + 1
        assert not (folders[1] / "t.amp").exists()
    result = run(COMMAND, ranks, folders[1])
    assert result.code == 0, result.err
    assert (folders[1] / "t.amp").read_bytes() == (folders[0] / "t.amp").read_bytes()
    assert curve(folders[1] / "t-curve.txt") == curve(folders[0] / "t-curve.txt")


# The command with a process that is killed while it writes the third checkpoint.
KILLED_SAVING = """
import os, signal
from ampmpi.model import checkpoint
write, calls = checkpoint.write_whole, []
def killed(path, data):
    calls.append(path)
    if len(calls) == 3:
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
    write(path, data)
checkpoint.write_whole = killed
from ampmpi.cli.main import ampmpi
ampmpi()
"""


@pytest.mark.starts_jobs
def test_a_training_killed_while_it_saves_keeps_every_checkpoint_and_nothing_else(tmp_path):
    write(tmp_path / "images.traj", training_images())
    command = ["train", "images.traj", "--label", "t", "--cutoff", "4.5", "--max-steps", "90"]
    command += ["--checkpoint-every", "20", "--keep-checkpoints"]
    killed = finish(start(["-c", KILLED_SAVING, *command], 0, tmp_path))
    assert killed.code == -signal.SIGKILL
    assert len(list(tmp_path.glob("*.tmp"))) == 1
    with open(tmp_path / "t-curve.txt", "a") as file:
        file.write("1")  # as a full disk may leave it
    result = run(command, 0, tmp_path)
    assert result.code == 0, result.err
    assert "after step 40." in (tmp_path / "t-log.txt").read_text()
    assert sorted(p.name for p in (tmp_path / "t-checkpoints").iterdir()) == [
        f"{step}.amp" for step in (20, 40, 60, 80)
    ]
    assert not list(tmp_path.rglob("*.tmp"))
    steps = [int(row.split()[0]) for row in curve(tmp_path / "t-curve.txt")[1:]]
    assert steps == list(range(1, 91))


@pytest.mark.starts_jobs
def test_a_training_that_compiles_is_the_same_as_one_that_does_not(tmp_path):
    (tmp_path / "cache").mkdir()
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "NUMBA_DEBUG_CACHE": "1"}
    saved = []
    for folder in (tmp_path / "cold", tmp_path / "warm"):
        folder.mkdir()
        write(folder / "images.traj", training_images())
        command = ["train", "images.traj", "--label", "t", "--cutoff", "4.5", "--max-steps", "30"]
        result = finish(start([*AMPMPI, *command], 2, folder, **cache), 280)
        assert result.code == 0, result.err
        saved.append(set(re.findall(r"\[cache\] data saved to '.*/(.*?)-\d", result.out)))
    # what is saved by the processes that compile; the ranks only load
    assert {"layers.tangent_rows", "contraction.force_terms"} <= saved[0]
    assert saved[1] == set()
    cold, warm = tmp_path / "cold", tmp_path / "warm"
    assert (cold / "t.amp").read_bytes() == (warm / "t.amp").read_bytes()
    assert curve(cold / "t-curve.txt") == curve(warm / "t-curve.txt")


@pytest.mark.starts_jobs
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_warned_training_says_that_it_is_unfinished(tmp_path, number):
    write(tmp_path / "images.traj", training_images())
    command = [*COMMAND[:-4], "--energy-rmse", "1e-9", "--max-steps", "1000000"]
    job = start([*AMPMPI, *command], 0, tmp_path)
    path = tmp_path / "t-curve.txt"
    while job.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") > 100):
        time.sleep(0.01)
    job.send_signal(number)
    result = finish(job)
    assert result.code == 75, result.err
    assert "start it again to go on" in result.err
    assert not (tmp_path / "t.amp").exists()
    steps = len(curve(path)) - 1
    result = run([*command[:-1], str(steps + 5)], 2, tmp_path)
    assert result.code == 0, result.err
    assert len(curve(path)) - 1 == steps + 5


SCRIPT = """
import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import Trajectory, read
from ase.parallel import world
from ampmpi import Amp, Gaussian, LossFunction, NeuralNetwork, Regressor
rng = np.random.default_rng({seed})
images = []
with Trajectory("images.traj", "w") as trajectory:
    for _ in range(8):
        atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
        atoms.rattle(0.1, rng=rng)
        atoms.calc = EMT()
        atoms.get_forces()
        trajectory.write(atoms)
        images.append(atoms)
world.barrier()
assert len(read("images.traj", ":")) == 8
calc = Amp(descriptor=Gaussian(cutoff=4.0), model=NeuralNetwork((4,), randomseed=1), label="t")
calc.model.regressor = Regressor("L-BFGS-B")
calc.model.lossfunction = LossFunction(
    convergence={{"energy_rmse": 1e-12, "force_rmse": 1e-12}}, maxiter={steps}
)
calc.train(images={images})
"""


@pytest.mark.starts_jobs
def test_a_script_makes_its_images_and_trains_on_every_number_of_ranks(tmp_path):
    ends = []
    for ranks in (0, 3):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        script = SCRIPT.format(seed=1, steps=15, images='"images.traj"')
        result = finish(start(["-c", script], ranks, folder))
        assert result.code == 0, result.err
        ends.append(float(curve(folder / "t-curve.txt")[-1].split()[1]))
    assert ends[1] == pytest.approx(ends[0], rel=1e-9)


@pytest.mark.starts_jobs
def test_a_script_that_fails_on_one_rank_ends_on_all(tmp_path):
    script = (
        "from ampmpi import Gaussian\nfrom ase.parallel import world\n"
        "assert world.size == 2\n"
        "if world.rank == 1:\n    raise ValueError('what the script raises')\n"
        "world.barrier()\n"
    )
    result = finish(start(["-c", script], 2, tmp_path))
    assert result.code != 0
    assert "ValueError: what the script raises" in result.err


@pytest.mark.starts_jobs
def test_images_that_differ_between_ranks_are_refused(tmp_path):
    script = SCRIPT.format(seed="", steps=15, images="images")
    result = finish(start(["-c", script], 2, tmp_path))
    assert result.code == 3
    assert "is not the same on every rank" in result.err


@pytest.mark.starts_jobs
@pytest.mark.parametrize("ranks", [0, 2])
def test_a_warned_script_saves_its_checkpoint_and_goes_on(tmp_path, ranks):
    script = SCRIPT.format(seed=1, steps=1_000_000, images='"images.traj"')
    job = start(["-c", script], ranks, tmp_path)
    path = tmp_path / "t-curve.txt"
    while job.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") > 60):
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)  # mpirun hands it on; a SIGTERM ends its ranks itself
    result = finish(job)
    assert result.code == 75, result.err
    assert "start it again to go on" in result.err
    steps = len(curve(path)) - 1
    script = SCRIPT.format(seed=1, steps=steps + 5, images='"images.traj"')
    result = finish(start(["-c", script], ranks, tmp_path))
    assert result.code == 0, result.err
    assert len(curve(path)) - 1 == steps + 5
    assert f"after step {steps}." in (tmp_path / "t-log.txt").read_text()


@pytest.mark.starts_jobs
def test_ranks_share_an_evaluation(tmp_path):
    write(tmp_path / "images.traj", training_images())
    write(tmp_path / "far.traj", training_images(2, seed=3))
    write(tmp_path / "h.traj", [*training_images(2), Atoms("H")])
    command = ["train", "images.traj", "--label", "c", "--cutoff", "4.5", "--max-steps", "10"]
    assert run([*command, "--committee", "2"], 0, tmp_path).code == 0
    evaluate = ["evaluate", "c-committee-0.amp", "c-committee-1.amp"]
    alone = run([*evaluate, "images.traj", "far.traj", "--output", "0.jsonl"], 0, tmp_path)
    many = run([*evaluate, "images.traj", "far.traj", "--output", "3.jsonl"], 3, tmp_path)
    assert alone.code == many.code == 0, many.err
    assert many.out == alone.out
    assert many.err == alone.err
    assert "all images: 16 images" in many.out
    assert (tmp_path / "3.jsonl").read_text() == (tmp_path / "0.jsonl").read_text()
    bad = run([*evaluate, "h.traj"], 2, tmp_path)
    assert bad.code == 2
    assert bad.err.count("h.traj, image 2: ") == 1


@pytest.mark.starts_jobs
def test_a_committee_is_the_same_on_groups_and_alone(tmp_path):
    command = ["train", "images.traj", "--label", "c", "--cutoff", "4.5", "--max-steps", "10"]
    command += ["--hidden", "4", "--hidden", "5,4", "--committee", "2", "--bootstrap"]
    tables = {}
    for ranks in (0, 2, 3):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        write(folder / "images.traj", training_images())
        result = run(command, ranks, folder)
        assert result.code == 0, result.err
        assert "Committee: c-committee-0.amp to c-committee-1.amp" in result.out
        rows = (folder / "c-members.txt").read_text().splitlines()[1:]
        tables[ranks] = {row.split()[0]: row.split()[3:9] for row in rows}
        assert ("2 groups of 1 rank" in result.out) == (ranks == 2)
        assert not list((folder / "c-members").glob(".queue*"))
    table = (tmp_path / "2" / "c-members.txt").read_text()
    assert "This training is finished already" in run(command, 3, tmp_path / "2").out
    assert (tmp_path / "2" / "c-members.txt").read_text() == table
    assert len(tables[0]) == 4
    assert tables[2] == tables[0]
    for name, values in tables[3].items():
        np.testing.assert_allclose(
            np.array(values, float), np.array(tables[0][name], float), rtol=1e-4
        )
