"""`train_calculator`: what `Amp.train` and the command line call."""

from __future__ import annotations

import errno
import fcntl
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

import ampmpi
from ampmpi.descriptor import Gaussian
from ampmpi.errors import (
    AmpmpiError,
    ImageError,
    InputError,
    LockedError,
    TrainingConvergenceError,
    Unfinished,
)
from ampmpi.model import NeuralNetwork, amp_file
from ampmpi.parallel.comm import Communicator, as_communicator
from ampmpi.parallel.failure import (
    abort_on_error,
    agree,
    agree_alone,
    install_excepthook,
    share,
)
from ampmpi.parallel.launch import batch_job, stop
from ampmpi.parallel.log import Log
from ampmpi.training.curve import Step
from ampmpi.training.data import Source
from ampmpi.training.dataset import Dataset, open_pool, survey
from ampmpi.training.fit import FitResult, Schedule
from ampmpi.training.job import fit, load
from ampmpi.training.memory import plan_memory

if TYPE_CHECKING:
    from ampmpi.calculator import Amp


@dataclass(frozen=True)
class TrainingResult:
    """End of a training.

    Attributes
    ----------
    outcome : str
        'converged', 'maxiter', 'early stopping' or 'stalled'.
    file : str
        The .amp file with the parameters.
    best : Step
        Errors at these parameters.
    steps : int
        Evaluations of the loss.
    """

    outcome: str
    file: str
    best: Step
    steps: int


def train_calculator(
    calculator: Amp,
    images: Any,
    *,
    overwrite: bool = False,
    validation: Any = None,
    validation_fraction: float = 0.0,
    seed: int = 0,
    schedule: Schedule | None = None,
    memory: float | None = None,
    comm: Any = None,
) -> TrainingResult:
    """Fit a calculator's model to images, on all ranks that call this.

    Parameters
    ----------
    calculator : Amp
        Gets the parameters found, on every rank.
    images : file names or list of ase.Atoms
        Images with energies and, where they are trained, forces.
    overwrite : bool
        Replace LABEL.amp when it is there.
    validation : file names or list of ase.Atoms, optional
        Images to validate on.
    validation_fraction : float
        Fraction of `images` to validate on, where `validation` is not given.
    seed : int
        Seed of that choice.
    schedule : Schedule, optional
        When to validate and to save; the model's `checkpoints` by default.
    memory : float, optional
        Bytes that a rank may use; what its node has left by default.
    comm : communicator, optional
        All ranks of the job by default.

    Raises
    ------
    TrainingConvergenceError
        The optimiser could not reach the criteria; the parameters are saved.
    Unfinished
        A signal asked to stop; the same call goes on.
    KeyboardInterrupt
        So did an interrupt from the keyboard, without ``mpirun``.
    LockedError
        Another training with the label is running.
    InputError, ImageError, DatabaseError, ModelError
        Something that was given cannot be used.
    """
    ranks = as_communicator(comm)
    label = calculator.label or "amp"
    model = calculator.model
    when = replace(schedule or Schedule(), **_checkpoints(model.checkpoints))
    if when.patience is not None and validation is None and not validation_fraction:
        raise share(InputError("patience needs validation images or a validation fraction"))
    if memory is not None and not (isinstance(memory, Real) and memory > 0):
        raise share(InputError(f"memory is {memory!r}; give a number of bytes"))
    install_excepthook(ranks)
    with ExitStack() as stack:
        stack.enter_context(stop.caught())
        stack.enter_context(abort_on_error(ranks))
        labels = sorted(set(ranks.allgather(label)))
        if len(labels) > 1:
            raise share(
                InputError(
                    f"the ranks train with different labels, {labels[0]} and {labels[1]}: give all "
                    "the same, and start several jobs for several trainings"
                )
            )
        agree(ranks, lambda: Path(label).parent.mkdir(parents=True, exist_ok=True))
        log = open_log(stack, ranks, calculator.label if calculator.logging else None)
        write_head(log, ranks, calculator.descriptor, label)
        dataset, descriptor, source = prepare(
            ranks,
            calculator.descriptor,
            images,
            label=label,
            dblabel=calculator.dblabel,
            forces=model.forcetraining,
            validation=validation,
            fraction=validation_fraction,
            seed=seed,
            log=log,
            known=model.fprange or (),
        )
        calculator.descriptor = descriptor
        plan = plan_memory(ranks, ranks.size, dataset, descriptor, source, memory)
        log(plan.line())
        source = replace(source, recompute=plan.computes_anew)
        prepared = load(ranks, dataset, descriptor, source, model, resident=plan.resident)
        log(
            f"Training on {prepared.n_training} images with {int(dataset.n_atoms.sum())} atoms, "
            f"validating on {prepared.n_validation}."
        )
        try:
            result = fit(ranks, prepared, model, label, when, log, redo=overwrite)
        except Unfinished as error:
            if ranks.size == 1 and stop.signal_name == "SIGINT":
                raise KeyboardInterrupt(str(error)) from None
            raise
        file = agree(ranks, lambda: _save(calculator, result, label, overwrite, log))
        finalize(ranks, source, compress=calculator.dblabel is None, log=log)
        if not result.successful:
            raise share(
                TrainingConvergenceError(
                    f"the training did not reach its criteria in {result.steps} steps (energy "
                    f"rmse {result.best.energy_rmse:.3g} eV per atom, force rmse "
                    f"{result.best.force_rmse:.3g} eV/Å); its parameters are in {file}"
                )
            )
    return TrainingResult(result.outcome, file, result.best, result.steps)


def prepare(
    comm: Communicator,
    descriptor: Gaussian,
    images: Any,
    *,
    label: str,
    dblabel: str | None,
    forces: bool,
    validation: Any,
    fraction: float,
    seed: int,
    log: Callable[[str], None],
    known: Iterable[str] = (),
) -> tuple[Dataset, Gaussian, Source]:
    """Survey the images and see that the database has all their fingerprints.

    `known` are elements that the model knows, whatever the images hold.
    """
    from ampmpi.fingerprinting import fingerprint

    if validation is not None and fraction:
        raise share(
            InputError(
                "validation images and a validation fraction are given; leave one of them out"
            )
        )
    images, validation = _reusable(images), _reusable(validation)
    pool = open_pool(comm, images, validation)
    dataset = survey(comm, pool, forces=forces, fraction=fraction, seed=seed)
    dataset.check_validation(known)
    if dataset.remark:
        log(f"Warning: {dataset.remark}.")
    prefix = dblabel or label
    start = time.monotonic()
    for given in (images, validation):
        if given is None:
            continue
        summary = fingerprint(
            given,
            descriptor,
            label=label,
            dblabel=dblabel,
            derivatives=forces,
            comm=comm,
            compress=False,
        )
        if summary.failed:
            raise share(
                ImageError(
                    f"{len(summary.failed)} images cannot be fingerprinted, the first: "
                    f"{str(summary.failed[0]).rstrip('.')}; take them out of the set"
                )
            )
        for line in summary.lines():
            log(line)
    log(f"Fingerprints are there after {time.monotonic() - start:.1f} s.")
    described = agree(comm, lambda: _described(descriptor, f"{prefix}-fingerprints.ampdb"))
    source = Source(
        f"{prefix}-fingerprints.ampdb",
        f"{prefix}-fingerprint-primes.ampdb" if forces else None,
        described,
    )
    return dataset, described, source


def _reusable(images: Any) -> Any:
    """Return images that can be gone through several times, hashed ones as often as they came."""
    if isinstance(images, Iterator):
        return list(images)
    if isinstance(images, Mapping):
        copies = getattr(images, "metadata", {}).get("duplicates", {})
        return [atoms for key, atoms in images.items() for _ in range(copies.get(key, 1))]
    return images


def _described(descriptor: Gaussian, path: str) -> Gaussian:
    """Return the descriptor whose fingerprints the database holds."""
    from ampmpi.database import FingerprintDatabase

    manifest = FingerprintDatabase(path).manifest()
    if descriptor.elements is not None or manifest is None:
        return descriptor
    found = Gaussian.from_parameters(manifest.parameters)
    found.dblabel = descriptor.dblabel
    return found


def finalize(
    comm: Communicator, source: Source, *, compress: bool, log: Callable[[str], None]
) -> None:
    """Compress the databases at the end of a job that does not share them."""
    if not compress:
        return
    from ampmpi.database import FingerprintDatabase
    from ampmpi.fingerprinting.finalize import compress_all

    paths = [path for path in (source.fingerprints, source.primes) if path is not None]
    databases = [FingerprintDatabase(path, comm.rank) for path in paths]
    for report in compress_all(databases, comm):
        if report.added:
            log(f"{report.path}: {report.added} entries archived.")
        for remark in report.remarks():
            log(f"Warning: {remark}")


LEASE = 120.0
"""Seconds for which a requeued job waits for its label: the file server may not know yet that
the host on which it ran before is gone."""

# What flock says on file systems that have no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def open_log(stack: ExitStack, comm: Communicator, label: str | None) -> Log:
    """Open LABEL-log.txt for rank 0 to append to, and claim the label; None: no log.

    Raises
    ------
    LockedError
        Another training with the label is running; every rank raises it.
    """
    if label is None:
        return Log(comm.rank, quiet=True)
    path = Path(f"{label}-log.txt")

    def open_claimed() -> TextIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(path.open("a", encoding="utf-8"))
        _claim(file, path, LEASE if batch_job()[1] else 0.0)
        return file

    return Log(comm.rank, stream=agree_alone(comm, open_claimed))


def _claim(file: TextIO, path: Path, wait: float) -> None:
    """Lock a training's log until it is closed, so that no other training uses its files.

    The system unlocks it when the process ends, however that is.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"another training writes {path}: wait until it ends, or take another label"
                ) from None
            time.sleep(1.0)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return


def write_head(log: Callable[[str], None], comm: Communicator, what: Any, label: str) -> None:
    """Write what a log starts with."""
    log(
        f"\nampmpi {ampmpi.__version__} on {comm.size} rank{'s' if comm.size > 1 else ''}, "
        f"{time.strftime('%Y-%m-%d %H:%M:%S')}, Python {platform.python_version()} on "
        f"{platform.node()}\nLabel: {label}\n{what}"
    )


def _checkpoints(every: int | None) -> dict[str, Any]:
    """Amp's `checkpoints`: negative keeps each, None or 0 leaves the default for restarts."""
    if not every:
        return {}
    return {"checkpoint_every": abs(every), "keep_checkpoints": every < 0}


def _holds(file: str, result: FitResult) -> bool:
    """Whether a .amp file is there and has a result's parameters."""
    try:
        vector = NeuralNetwork.from_parameters(amp_file.read(file)[1]).vector
    except AmpmpiError:
        return False
    return np.array_equal(vector, result.vector)


def _save(
    calculator: Amp, result: FitResult, label: str, overwrite: bool, log: Callable[[str], None]
) -> str:
    file = label + (".amp" if result.successful else "-untrained-parameters.amp")
    if result.was_finished and _holds(file, result):
        return file
    file = calculator.save(file, overwrite)
    log(f"{result.outcome} after {result.steps} steps. Parameters saved in {file}.")
    return file
