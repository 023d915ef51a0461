"""A training from images to files: the one road of scripts, commands and committees.

A session looks at the images, looks at what earlier trainings have left, computes fingerprints
that are missing, reads each rank's share, lets groups of ranks fit the members, saves the best
and compresses the databases. A lone training has one member and one group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ampmpi.database import FingerprintDatabase
from ampmpi.descriptor import Gaussian
from ampmpi.errors import (
    ImageError,
    InputError,
    TrainingConvergenceError,
)
from ampmpi.fingerprinting import fingerprint
from ampmpi.fingerprinting.adopt import resolve
from ampmpi.fingerprinting.finalize import compress_all
from ampmpi.members import Member, group_size, prefix_of
from ampmpi.parallel.comm import Communicator, as_communicator
from ampmpi.parallel.failure import abort_on_error, agree, install_excepthook, on_all, share
from ampmpi.parallel.launch import batch_job
from ampmpi.parallel.log import Log
from ampmpi.training.dataset import Dataset, survey
from ampmpi.training.earlier import Earlier, forget, look, refuse_at_once
from ampmpi.training.groups import fit_members, save_member
from ampmpi.training.log import Voice, head, open_log
from ampmpi.training.memory import plan_memory
from ampmpi.training.pool import open_pool, reusable
from ampmpi.training.results import MemberResult, TrainingResult, best_of, save
from ampmpi.training.settings import Settings
from ampmpi.training.shares import Source, load


def train(
    images: Any,
    descriptor: Gaussian,
    members: Sequence[Member],
    *,
    label: str,
    dblabel: str | None = None,
    settings: Settings | None = None,
    comm: Any = None,
    terminal: Log | None = None,
) -> TrainingResult:
    """Fit models to images, on all ranks that call this.

    Parameters
    ----------
    images : file names or list of ase.Atoms
        Images with energies and, where they are trained, forces.
    descriptor : Gaussian
        Turns images into fingerprints.
    members : sequence of Member
        The models, which get the parameters found. All have one loss function.
    label : str
        Prefix of the training's files.
    dblabel : str, optional
        Prefix of the databases, where several trainings share them.
    settings : Settings, optional
        How it is done.
    comm : communicator, optional
        All ranks of the job by default.
    terminal : Log, optional
        Where the user reads along; by default only warnings are shown.

    Raises
    ------
    TrainingConvergenceError
        An optimiser could not reach the criteria, or every fit of several failed; what was
        found is saved.
    Unfinished
        A signal asked to stop; the same call goes on.
    LockedError
        Another training with the label is running.
    InputError, ImageError, DatabaseError, ModelError
        Something that was given, or is there already, cannot be used.
    """
    ranks = as_communicator(comm)
    settings = settings or Settings()
    install_excepthook(ranks)
    with ExitStack() as stack:
        stack.enter_context(abort_on_error(ranks))
        return _Session(ranks, images, descriptor, members, label, dblabel, settings).run(
            stack, terminal
        )


def preview(
    images: Any,
    descriptor: Gaussian,
    members: Sequence[Member],
    *,
    label: str,
    dblabel: str | None = None,
    settings: Settings | None = None,
    comm: Any = None,
    terminal: Log,
) -> None:
    """Say what `train` would do and take, or refuse what it would refuse; nothing is written.

    The parameters are those of `train`.
    """
    ranks = as_communicator(comm)
    settings = settings or Settings()
    with abort_on_error(ranks):
        session = _Session(ranks, images, descriptor, members, label, dblabel, settings)
        session.preview(terminal)


class _Session:
    """One training; its steps share the ranks, the images and the members."""

    def __init__(
        self,
        comm: Communicator,
        images: Any,
        descriptor: Gaussian,
        members: Sequence[Member],
        label: str,
        dblabel: str | None,
        settings: Settings,
    ) -> None:
        on_all(comm, settings.check)
        labels = sorted(set(comm.allgather(label)))
        if len(labels) > 1:
            raise share(
                InputError(
                    f"the ranks train with different labels, {labels[0]} and {labels[1]}: give all "
                    "the same, and start several jobs for several trainings"
                )
            )
        self.comm, self.settings = comm, settings
        self.images, self.validation = reusable(images), reusable(settings.validation)
        self.descriptor, self.members = descriptor, members
        self.label, self.dblabel = label, dblabel
        self.model = members[0].model
        self.forces = self.model.forcetraining
        self.size = on_all(comm, lambda: group_size(comm.size, len(members), settings.groups))
        prefix = dblabel or label
        self.fingerprints = f"{prefix}-fingerprints.ampdb"
        self.primes = f"{prefix}-fingerprint-primes.ampdb" if self.forces else None
        self.restart = settings.restart and not batch_job()[1]

    def run(self, stack: ExitStack, terminal: Log | None) -> TrainingResult:
        """Do everything."""
        comm, label = self.comm, self.label
        agree(comm, lambda: Path(label).parent.mkdir(parents=True, exist_ok=True))
        log = open_log(stack, comm, label, quiet=not self.settings.logging)
        voice = Voice(log, terminal, comm.rank)
        log(head(comm.size, self.descriptor, label))
        dataset, earlier = self.survey(voice)
        if earlier.finished:
            voice.say("This training is finished already; there is nothing to compute.")
            results = self.results_of(earlier)
        else:
            self.compute_fingerprints(voice)
            results = self.fit(dataset, earlier, voice, stack)
        best = best_of(results)
        if best is None or best.best is None:
            raise share(
                TrainingConvergenceError(f"no fit succeeded; the first: {results[0].outcome}")
            )
        file = agree(comm, lambda: save(label, results, best, voice.say))
        if self.settings.compress and self.dblabel is None:
            self.compress(voice)
        result = TrainingResult(
            best.outcome, file, best.best, best.steps, self.descriptor, tuple(results)
        )
        if result.stalled:
            raise share(TrainingConvergenceError(_complaint(result)))
        return result

    def survey(self, voice: Voice) -> tuple[Dataset, Earlier]:
        """Look at the images, and at what earlier trainings have left."""
        comm, settings = self.comm, self.settings
        options = {"overwrite": settings.overwrite, "restart": self.restart}
        agree(comm, lambda: refuse_at_once(self.label, self.members, **options))
        dataset = survey(
            comm,
            open_pool(comm, self.images, self.validation),
            forces=self.forces,
            fraction=settings.validation_fraction,
            seed=settings.seed,
        )
        dataset.check_validation(self.model.fprange or ())
        if dataset.remark:
            voice.warn(dataset.remark)
        database = FingerprintDatabase(self.fingerprints)
        self.descriptor = agree(comm, lambda: resolve(self.descriptor, dataset.elements, database))
        schedule = settings.schedule
        earlier = agree(
            comm,
            lambda: look(self.label, self.members, dataset, self.descriptor, schedule, **options),
        )
        for line in earlier.remarks:
            voice.log(line)
        return dataset, earlier

    def results_of(self, earlier: Earlier) -> list[MemberResult]:
        """Return the results of a training that is finished."""
        results = []
        for member, start in zip(self.members, earlier.starts, strict=True):
            assert start.result is not None
            prefix = prefix_of(self.label, member, self.members)
            lone = len(self.members) == 1
            results.append(
                save_member(
                    self.comm, self.descriptor, member, start, start.result, prefix, lone=lone
                )
            )
        return results

    def compute_fingerprints(self, voice: Voice, *, dry_run: bool = False) -> None:
        """See that the database has all fingerprints."""
        started = time.monotonic()
        for images in (self.images, self.validation):
            if images is None:
                continue
            summary = fingerprint(
                images,
                self.descriptor,
                label=self.label,
                dblabel=self.dblabel,
                derivatives=self.forces,
                comm=self.comm,
                compress=False,
                dry_run=dry_run,
            )
            for line in summary.remarks():
                voice.warn(line)
            for line in summary.lines():
                (voice.say if dry_run else voice.log)(line)
            if summary.failed:
                raise share(
                    ImageError(
                        f"{len(summary.failed)} images cannot be fingerprinted, the first: "
                        f"{str(summary.failed[0]).rstrip('.')}; take them out of the set"
                    )
                )
        voice.log(f"Fingerprints are there after {time.monotonic() - started:.1f} s.")

    def fit(
        self, dataset: Dataset, earlier: Earlier, voice: Voice, stack: ExitStack
    ) -> list[MemberResult]:
        """Read the shares and let groups of ranks fit the members."""
        comm, members, size = self.comm, self.members, self.size
        group = comm if size == comm.size else comm.split(comm.rank // size, comm.rank)
        source = Source(self.fingerprints, self.primes, self.descriptor)
        plan = plan_memory(comm, size, dataset, self.descriptor, source, self.settings.memory)
        voice.say(plan.line())
        source = replace(source, recompute=plan.computes_anew)
        prepared = load(group, dataset, source, self.model.lossfunction, resident=plan.resident)
        voice.say(
            f"Training {len(members)} model{'s' if len(members) > 1 else ''} on "
            f"{dataset.n_training} images, validating on {dataset.n_validation}, with "
            f"{groups_of(comm.size, size)}"
        )

        def open_member_log(member: Member) -> Callable[[str], None]:
            if len(members) == 1:
                return voice.log
            prefix = prefix_of(self.label, member, members)
            return open_log(stack, group, prefix, quiet=not self.settings.logging)

        agree(comm, lambda: forget(earlier))
        return fit_members(
            comm,
            group,
            prepared,
            members,
            earlier.starts,
            self.label,
            self.settings.schedule,
            open_member_log,
            Log(group.rank),
        )

    def compress(self, voice: Voice) -> None:
        """Compress the databases, and say what was damaged in them."""
        paths = [path for path in (self.fingerprints, self.primes) if path is not None]
        databases = [FingerprintDatabase(path, self.comm.rank) for path in paths]
        for report in compress_all(databases, self.comm):
            if report.added:
                voice.log(f"{report.path}: {report.added} entries archived.")
            for line in report.remarks():
                voice.warn(line)

    def preview(self, terminal: Log) -> None:
        """Say what `run` would do."""
        voice = Voice(Log(self.comm.rank, quiet=True), terminal, self.comm.rank)
        dataset, earlier = self.survey(voice)
        for line in earlier.remarks:
            terminal(line)
        self.compute_fingerprints(voice, dry_run=True)
        plan = plan_memory(
            self.comm, self.size, dataset, self.descriptor, None, self.settings.memory
        )
        terminal(plan.line())
        terminal(f"{len(self.members)} to fit, with {groups_of(self.comm.size, self.size)}:")
        for member in self.members:
            terminal(f"  {member.name}, seed {member.model.randomseed}")


def groups_of(ranks: int, size: int) -> str:
    """Say how many groups there are, and of how many ranks."""
    groups = ranks // size
    return f"{groups} group{'s' if groups > 1 else ''} of {size} rank{'s' if size > 1 else ''}"


def _complaint(result: TrainingResult) -> str:
    """Say which fits have not reached their criteria."""
    stalled, members = result.stalled, result.members
    if len(members) == 1:
        return (
            f"the training did not reach its criteria in {result.steps} steps (energy rmse "
            f"{result.best.energy_rmse:.3g} eV per atom, force rmse "
            f"{result.best.force_rmse:.3g} eV/Å); its parameters are in {result.file}"
        )
    return (
        f"{len(stalled)} of {len(members)} fits did not reach their criteria, the first: "
        f"{stalled[0].member.name}; their parameters are saved"
    )
