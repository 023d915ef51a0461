"""A training from images to files: the one road of scripts, commands and committees.

A session looks at the images, looks at what earlier trainings have left, computes fingerprints
that are missing, reads each rank's share, lets groups of ranks fit the members, saves the best
and compresses the databases. A lone training has one member and one group.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ampmpi.database import FingerprintDatabase
from ampmpi.descriptor import (
    Descriptor,
    feature_names,
    has_derivatives,
    in_words,
    require_descriptor,
)
from ampmpi.errors import (
    ImageError,
    InputError,
    LockedError,
    ModelError,
    TrainingConvergenceError,
    Unfinished,
    UnusableImagesError,
)
from ampmpi.fingerprinting import fingerprint
from ampmpi.fingerprinting.adopt import require_owner, resolve
from ampmpi.fingerprinting.finalize import compress_all
from ampmpi.images import ImageRef
from ampmpi.images.doubts import SHOWN, named
from ampmpi.members import Member, Queue, group_size, make_queue, prefix_of
from ampmpi.model import LossFunction, amp_file
from ampmpi.model.jacobian import matrix_bytes
from ampmpi.model.loss import LossTerms
from ampmpi.model.optimise import check_optimiser
from ampmpi.model.scaling import CONSTANT, is_constant
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree, on_all, share
from ampmpi.parallel.launch import batch_job, check_compiler
from ampmpi.parallel.log import Log
from ampmpi.text import amount
from ampmpi.training import halving
from ampmpi.training.curve import Step
from ampmpi.training.dataset import Dataset, survey
from ampmpi.training.deadline import Deadline
from ampmpi.training.earlier import (
    MAXITER,
    STALLED,
    TIME,
    Earlier,
    Start,
    drawn_images,
    forget,
    look,
    refuse_at_once,
)
from ampmpi.training.fit import fit
from ampmpi.training.log import TrainingLog, Voice, head
from ampmpi.training.memory import MemoryPlan, plan_memory
from ampmpi.training.pool import open_pool, reusable
from ampmpi.training.progress import FitProgress
from ampmpi.training.results import MemberResult, TrainingResult, best_of, save
from ampmpi.training.settings import NEEDS_VALIDATION, Settings
from ampmpi.training.shares import Prepared, Source, load
from ampmpi.training.unusable import SKIP_ADVICE


@runtime_checkable
class DescriptorMaker(Protocol):
    """What makes a training's descriptor from the images that it trains on."""

    def make(self, dataset: Dataset) -> Descriptor:
        """Return the descriptor, the same on every rank."""

    def keep(self) -> None:
        """Write what was made to a file, for the next time."""

    def discard(self) -> None:
        """Remove that file again."""


class Session:
    """One training, done or previewed by all ranks that make it.

    Parameters
    ----------
    images : file names or list of ase.Atoms
        Images with energies and, where they are trained, forces.
    descriptor : Descriptor or DescriptorMaker
        Turns images into fingerprints, or makes what does.
    members : sequence of Member
        The models, which get the parameters found. All have one loss function.
    label : str
        Prefix of the training's files.
    dblabel : str, optional
        Prefix of the databases, where several trainings share them.
    settings : Settings
        How it is done.
    comm : Communicator
        The ranks. What makes a session is to be inside `abort_on_error`.
    terminal : Log, optional
        Where the user reads along; by default only warnings are shown.

    Raises
    ------
    InputError
        Something that was given is wrong, or differs from rank to rank.
    """

    def __init__(
        self,
        images: Any,
        descriptor: Descriptor | DescriptorMaker,
        members: Sequence[Member],
        *,
        label: str,
        dblabel: str | None,
        settings: Settings,
        comm: Communicator,
        terminal: Log | None = None,
    ) -> None:
        began = time.monotonic()
        on_all(comm, check_compiler)
        on_all(comm, settings.check)
        on_all(comm, members[0].model.lossfunction.settings)
        for member in members:
            on_all(comm, partial(check_optimiser, member.model.regressor))
        labels = sorted(set(comm.allgather(label)))
        if len(labels) > 1:
            raise share(
                InputError(
                    f"the ranks train with different labels, {labels[0]} and {labels[1]}: give all "
                    "the same, and start several jobs for several trainings"
                )
            )
        self.comm, self.settings = comm, settings
        self.deadline = Deadline.of(settings.schedule.max_seconds, began)
        self.images, self.validation = (
            on_all(comm, partial(settings.as_read, reusable(given)))
            for given in (images, settings.validation)
        )
        self.maker = descriptor if isinstance(descriptor, DescriptorMaker) else None
        self.members = members
        self.label, self.dblabel = label, dblabel
        self.model = members[0].model
        self.forces = self.model.forcetraining
        self.stress = self.model.lossfunction.trains_stress
        if self.maker is None:
            self.descriptor = on_all(comm, partial(require_descriptor, descriptor))
        if self.stress and self.maker is None and not has_derivatives(self.descriptor):
            raise share(
                InputError(
                    f"the descriptor {in_words(self.descriptor)} has no derivatives, and no "
                    "stresses can be trained: leave --stress-coefficient (stress_coefficient in "
                    "a script) out, or give a descriptor with derivatives"
                )
            )
        if self.forces and self.maker is None and not has_derivatives(self.descriptor):
            raise share(
                InputError(
                    f"the descriptor {in_words(self.descriptor)} has no derivatives, and no forces "
                    "can be trained: give --no-forces (LossFunction(force_coefficient=None) in a "
                    "script), or a descriptor with derivatives"
                )
            )
        self.loaded: tuple[Communicator, Prepared] | None = None
        self.size = on_all(comm, lambda: group_size(comm.size, len(members), settings.groups))
        prefix = dblabel or label
        self.fingerprints = f"{prefix}-fingerprints.ampdb"
        self.primes = f"{prefix}-fingerprint-primes.ampdb" if self.forces else None
        self.restart = settings.restart and not batch_job()[1]
        self.terminal = terminal or Log(quiet=True)
        self.voice = Voice(Log(comm.rank, quiet=True), terminal, comm.rank)

    def train(self) -> TrainingResult:
        """Fit the models.

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
        comm, label = self.comm, self.label
        with ExitStack() as logs:
            log = TrainingLog(logs, comm, label, quiet=not self.settings.logging)
            self.voice.log = log
            log(head(comm.size, self.maker or self.descriptor, label))
            try:
                dataset, earlier = self._survey()
            except BaseException:  # whatever it was, nothing has been done yet
                self._discard(log)
                raise
            if log.speaks:
                self.terminal(f"The log is {log.path}.")
            if self.maker is not None and not self.settings.skip_unusable:
                self.maker.keep()
            if earlier.finished:
                self.voice.say("This training is finished already; there is nothing to compute.")
            else:
                if not self.settings.skip_unusable:
                    try:
                        self._fingerprint()
                    except UnusableImagesError:
                        self._discard(log)
                        raise
                self._regroup(dataset, sum(not start.out for start in earlier.starts))
                agree(comm, lambda: forget(earlier))
            results = self._fit(dataset, earlier, logs)
            self.loaded = None  # its arrays: a compress may take as much again
            best = best_of(results)
            if best is None or best.best is None:
                raise share(
                    TrainingConvergenceError(f"no fit succeeded; the first: {results[0].outcome}")
                )
            if earlier.finished:
                self.model.lossfunction.remember(_terms_of(best.best, dataset))
            file = agree(comm, lambda: save(label, results, best, self.voice.say))
            if earlier.bracket is None:
                agree(comm, lambda: halving.file_of(label).unlink(missing_ok=True))
            if self.settings.compress and self.dblabel is None:
                self._compress()
        result = TrainingResult(
            best.outcome, file, best.best, best.steps, self.descriptor, tuple(results)
        )
        if any(one.outcome == STALLED and one.out is None for one in results):
            raise share(TrainingConvergenceError(_complaint(result)))
        return result

    def _discard(self, log: TrainingLog) -> None:
        """Remove what this training has written, where it came to nothing."""
        if self.maker is not None and not os.path.lexists(self.fingerprints):
            self.maker.discard()
        log.discard()

    def prepare(self) -> Prepared:
        """Do what comes before a fit, and return this rank's images; no fit follows."""
        dataset, _ = self._survey()
        self._fingerprint()
        return self._load(dataset, len(self.members))[1]

    def preview(self) -> None:
        """Say what `train` would do and take, or refuse what it would; nothing is written."""
        say = self.voice.say
        dataset, earlier = self._survey(dry_run=True)
        for line in earlier.remarks:
            say(line)
        if not self.settings.skip_unusable:
            self._fingerprint(dry_run=True)
        say(self._plan(dataset, None).line())
        say(f"{len(self.members)} to fit, with {self._groups()}:")
        if earlier.bracket is not None:
            say(f"  in {earlier.bracket.plan()}")
        for member in self.members:
            say(f"  {member.name}, seed {member.model.randomseed}")

    def _survey(self, *, dry_run: bool = False) -> tuple[Dataset, Earlier]:
        """Look at the images, and at what earlier trainings have left."""
        comm, settings = self.comm, self.settings
        options = {"overwrite": settings.overwrite, "restart": self.restart}
        agree(comm, lambda: refuse_at_once(self.label, self.members, **options))
        dataset = survey(
            comm,
            open_pool(comm, self.images, self.validation),
            forces=self.forces,
            stress=self.stress,
            fraction=settings.validation_fraction,
            seed=settings.seed,
            keys=settings.keys,
            weighting=settings.weighting,
            skip_unusable=settings.skip_unusable,
        )
        if dataset.choice.note:
            self.voice.tell(f"Labels: {dataset.choice.note}.")
        for line in dataset.weight_notes:
            self.voice.tell(line)
        for line in (dataset.choice.warning, *dataset.remarks):
            if line:
                self.voice.warn(line)
        dataset.check_validation(self.model.fprange or ())
        if settings.halving and not dataset.n_validation:  # where a tenth of a few is none
            raise share(InputError(NEEDS_VALIDATION))
        if self.model.fprange is not None and not settings.skip_unusable:
            dataset.check_elements(self.model.fprange)
        if dataset.n_shared:
            self.voice.warn(
                f"{dataset.n_shared} of the images given for validation are among those to train "
                "on: they are trained on, and left out of the validation"
            )
        asks = settings.schedule.patience is not None and not settings.usual_patience
        if asks and not dataset.n_validation:
            raise share(
                InputError(
                    f"patience is given, but of {dataset.n_training} images none is kept to "
                    "validate on: give --validation or --validation-fraction, or leave it out"
                )
            )
        database = FingerprintDatabase(self.fingerprints)
        if self.maker is not None:
            self.descriptor = self.maker.make(dataset)
            self.voice.log(str(self.descriptor))
        self.descriptor = resolve(self.descriptor, dataset.elements, database, comm)
        agree(comm, lambda: require_owner(database, self.descriptor))
        if settings.skip_unusable:
            if self.maker is not None and not dry_run:
                self.maker.keep()
            failed = self._fingerprint(dry_run=dry_run)
            dataset, dropped = on_all(comm, partial(dataset.without, failed))
            if dropped:
                self.voice.warn(
                    f"{amount(len(dropped), 'image')} left out, which cannot be fingerprinted: "
                    f"{named(dropped, SHOWN)}"
                )
        schedule = settings.schedule

        def look_all() -> Earlier:
            found = look(self.label, self.members, dataset, self.descriptor, schedule, **options)
            if settings.halving:
                halving.look(self.label, self.members, found, schedule.validate_every, **options)
            return found

        earlier = agree(comm, look_all)
        for line in earlier.remarks:
            self.voice.log(line)
        return dataset, earlier

    def _fingerprint(self, *, dry_run: bool = False) -> list[ImageRef]:
        """See that the database has all fingerprints, and return images that can have none."""
        started, settings = time.monotonic(), self.settings
        failed: list[ImageRef] = []
        done = 0
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
                packs=settings.packs,
                pack_size=settings.pack_size,
                pack_seconds=settings.pack_seconds,
                log=None if dry_run else self.terminal,
            )
            for line in summary.remarks():
                self.voice.warn(line)
            for line in summary.lines():
                (self.voice.say if dry_run or summary.computed else self.voice.log)(line)
            failed += [one.image for one in summary.failed]
            done += summary.found + summary.computed
            nothing = not (done or dry_run)
            if summary.failed and not settings.skip_unusable:
                advice = f"or {SKIP_ADVICE}" if done else "take them out of the set"
                raise share(
                    (UnusableImagesError if nothing else ImageError)(
                        f"{amount(len(summary.failed), 'image')} cannot be fingerprinted, the "
                        f"first: {str(summary.failed[0]).rstrip('.')}; {advice}"
                    )
                )
        self.voice.log(f"Fingerprints are there after {time.monotonic() - started:.1f} s.")
        return failed

    def _plan(self, dataset: Dataset, source: Source | None) -> MemoryPlan:
        return plan_memory(
            self.comm, self.size, dataset, self.descriptor, source, self.settings.memory,
            on_all(self.comm, partial(self._optimiser_bytes, dataset)),
        )  # fmt: skip

    def _optimiser_bytes(self, dataset: Dataset) -> float:
        """Return what the largest model's matrix takes: summed up, received, and factorised."""
        features = {e: self.descriptor.n_features[e] for e in dataset.elements}
        return max(
            (
                3.0 * matrix_bytes(member.model.network_for(features))
                for member in self.members
                if member.model.regressor.optimizer == "gauss-newton"
            ),
            default=0.0,
        )

    def _groups(self) -> str:
        """Say how many groups there are, and of how many ranks."""
        n, size = self.comm.size // self.size, self.size
        return f"{n} group{'s' if n > 1 else ''} of {size} rank{'s' if size > 1 else ''}"

    def _regroup(self, dataset: Dataset, n: int) -> None:
        """Have groups of ranks for `n` fits, each with all images."""
        groups = self.settings.groups
        size = group_size(self.comm.size, n, None if groups and groups > n else groups) if n else 0
        if n and (self.loaded is None or size != self.size):
            self.size, self.loaded = size, None  # the arrays go before new ones come
            self.loaded = self._load(dataset, n)
            if self.settings.widen:
                for member in self.members:
                    member.model.widen(self.loaded[1].fprange)

    def _load(self, dataset: Dataset, n: int) -> tuple[Communicator, Prepared]:
        """Split the ranks into groups, and read this rank's share of its group's images."""
        comm, size = self.comm, self.size
        group = comm if size == comm.size else comm.split(comm.rank // size, comm.rank)
        source = Source(self.fingerprints, self.primes, self.descriptor)
        plan = self._plan(dataset, source)
        self.voice.say(plan.line())
        source = replace(source, recompute=bool(plan.recompute) and not plan.resident)
        prepared = load(group, dataset, source, self.model.lossfunction, resident=plan.resident)
        constant = _constant_features(prepared, drops=self.model.constant_features == "drop")
        if constant:
            self.voice.say(constant)
        self.voice.say(
            f"Training {n} model{'s' if n > 1 else ''} on {dataset.n_training} images, "
            f"validating on {dataset.n_validation}, with {self._groups()}"
        )
        return group, prepared

    def _fit(self, dataset: Dataset, earlier: Earlier, logs: ExitStack) -> list[MemberResult]:
        """Fit the members, in several rounds with halving; return how each ended, on every rank.

        Before each round the ranks are split anew into groups for the fits that are left.
        """
        members, bracket = self.members, earlier.bracket
        starts = {one.name: start for one, start in zip(members, earlier.starts, strict=True)}
        limits = bracket.limits if bracket else [self.model.lossfunction.maxiter]
        results = (
            {one.name: one for over in bracket.done for one in over.results} if bracket else {}
        )
        left = [member for member in members if not starts[member.name].out]
        for number in range(len(bracket.done) + 1 if bracket else 1, len(limits) + 1):
            is_last = number == len(limits)
            going = [one for one in left if is_last or not _is_over(results.get(one.name))]
            if self.loaded is not None:
                self._regroup(dataset, len(going))
            deadline = self.deadline.part(len(limits) - number + 1)
            results.update(self._round(going, starts, limits[number - 1], deadline, logs))
            for one in going:
                if starts[one.name].result is None:
                    starts[one.name] = replace(starts[one.name], goes_on=True)
            if bracket is not None and not is_last:
                over = bracket.add([results[one.name] for one in left])
                agree(self.comm, bracket.save)
                self.voice.say(over.line(number, len(limits)))
                results.update((one.name, one) for one in over.results)
                left = [one for one in left if one.name in over.left]
        return [results[member.name] for member in members]

    def _round(
        self,
        members: Sequence[Member],
        starts: Mapping[str, Start],
        steps: int,
        deadline: Deadline,
        logs: ExitStack,
    ) -> dict[str, MemberResult]:
        """Let groups of ranks take members to `steps` steps, and return how each ended there.

        Of several members, those that cannot be fitted do not keep the others from it. All are
        finished already where nothing is loaded.
        """
        if not members:
            return {}
        comm, (group, prepared) = self.comm, self.loaded or (self.comm, None)
        lone = len(self.members) == 1
        say = Log(group.rank, quiet=lone or prepared is None)
        by_name = {member.name: member for member in members}
        folder = agree(comm, lambda: make_queue(self.label)) if group.size < comm.size else None
        queue = Queue(folder, members)
        turns = math.ceil(len(members) * group.size / comm.size)
        done: list[MemberResult] = []
        interrupted: Unfinished | None = None
        with ExitStack() as own:  # logs are let go after each round: other ranks may go on with it
            while (name := agree(group, queue.take)) is not None:
                member = by_name[name]
                until = deadline.part(turns - len(done))
                try:
                    with _at_most(member.model.lossfunction, steps):
                        ended = self._fit_one(
                            group, prepared, member, starts[name], until, logs if lone else own
                        )
                except Unfinished as error:
                    interrupted = error
                    queue.close()
                    break
                except (ModelError, LockedError) as error:
                    if lone:
                        raise
                    ended = MemberResult(name, member.seat, f"failed: {error}", 0, None, None)
                done.append(ended)
                say(f"{name}: {ended.outcome} after {ended.steps} steps, loss {ended.score:.4g}")
        parts = comm.allgather(done if group.rank == 0 else [])
        if folder is not None:
            agree(comm, lambda: shutil.rmtree(folder, ignore_errors=True))
        results = {one.name: one for part in parts for one in part}
        if len(results) < len(members):
            if interrupted is None or not lone:
                interrupted = Unfinished(
                    f"asked to stop with {len(results)} of {len(members)} members done; start it "
                    "again to go on"
                )
            raise share(interrupted)
        return results

    def _fit_one(
        self,
        group: Communicator,
        prepared: Prepared | None,
        member: Member,
        start: Start,
        deadline: Deadline,
        logs: ExitStack,
    ) -> MemberResult:
        """Fit one member, or take its result from its checkpoint, and save its .amp file.

        Alone, a fit that stalled gets the file name that Amp gives it.
        """
        model, lone, result = member.model, len(self.members) == 1, start.result
        prefix = prefix_of(self.label, member, self.members)
        if result is not None:
            start.apply(model)
        else:
            assert prepared is not None
            log, schedule = self.voice.log, self.settings.schedule
            if not lone:
                log = TrainingLog(logs, group, prefix, quiet=not self.settings.logging)
            drawn = drawn_images(prepared.dataset, member.draw)
            number = self.members.index(member) + 1
            name = "training" if lone else f"{member.name} ({number} of {len(self.members)})"
            progress = FitProgress(self.terminal, name)
            result = fit(
                group, prepared, model, prefix, schedule, log, start, drawn, progress, deadline
            )
        end = "-untrained-parameters.amp" if lone and result.outcome == STALLED else ".amp"
        file = prefix + end
        agree(group, lambda: amp_file.write(file, self.descriptor.parameters, model.parameters))
        return MemberResult(
            member.name, member.seat, result.outcome, result.steps, result.best, file
        )

    def _compress(self) -> None:
        """Compress the databases, and say what was damaged in them."""
        paths = [path for path in (self.fingerprints, self.primes) if path is not None]
        databases = [FingerprintDatabase(path, self.comm.rank) for path in paths]
        for report in compress_all(databases, self.comm):
            if report.added:
                self.voice.log(f"{report.path}: {report.added} entries archived.")
            for line in report.remarks():
                self.voice.warn(line)


def _is_over(result: MemberResult | None) -> bool:
    """Whether a fit has ended by itself, so that another round would not take it further."""
    return result is not None and result.outcome not in (MAXITER, TIME)


@contextmanager
def _at_most(lossfunction: LossFunction, steps: int) -> Iterator[None]:
    """Let fits end after so many steps within the block."""
    most = lossfunction.maxiter
    lossfunction.parameters["maxiter"] = min(most, steps)
    try:
        yield
    finally:
        lossfunction.parameters["maxiter"] = most


def _constant_features(prepared: Prepared, *, drops: bool) -> str:
    """Say in one line which features hardly change over the training images; empty for none."""
    lines = []
    for element, fprange in prepared.fprange.items():
        which = np.flatnonzero(is_constant(fprange)).tolist()
        names = feature_names(prepared.descriptor, element)
        if which:
            shown = [str(n) if names is None else names[n] for n in which[:SHOWN]]
            more = f" and {len(which) - SHOWN} more" if len(which) > SHOWN else ""
            lines.append(f"{len(which)} of {len(fprange)} of {element} ({'; '.join(shown)}{more})")
    if not lines:
        return ""
    what = "they have no weight" if drops else "--constant-features drop leaves them out"
    return (
        f"Features that change by less than {CONSTANT:g} of the most that one of the element does: "
        f"{', '.join(lines)}; {what}."
    )


def _terms_of(step: Step, dataset: Dataset) -> LossTerms:
    """Return the loss of a step that was made earlier.

    Its gradient and stress loss are not known, nor how weights of images enter its terms.
    """
    energy = step.energy_rmse**2 * dataset.n_training_energies()
    force = _number(step.force_rmse) ** 2 * dataset.n_training_forces()
    return LossTerms(
        step.loss,
        energy,
        force,
        step.energy_maxresid,
        _number(step.force_maxresid),
        None,
        stress_squares=_number(step.stress_rmse) ** 2 * dataset.n_training_stresses(),
        stress_maxresid=_number(step.stress_maxresid),
        energy_squares=energy,
        force_squares=force,
    )


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _complaint(result: TrainingResult) -> str:
    """Say which fits have not reached their criteria."""
    if len(result.members) == 1:
        rmse = result.best.stress_rmse
        stress = "" if math.isnan(rmse) else f", stress rmse {rmse:.3g} eV/Å³"
        return (
            f"the training did not reach its criteria in {result.steps} steps (energy rmse "
            f"{result.best.energy_rmse:.3g} eV per atom, force rmse "
            f"{result.best.force_rmse:.3g} eV/Å{stress}); its parameters are in {result.file}"
        )
    stalled = [one.name for one in result.members if one.outcome == STALLED and one.out is None]
    return (
        f"{len(stalled)} of {len(result.members)} fits did not reach their criteria, the first: "
        f"{stalled[0]}; their parameters are saved"
    )
