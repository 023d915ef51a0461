"""Many fits over the same images: sweeps, starts and committees on groups of ranks.

The ranks are split into groups of equal size. Each group holds all images, and takes the
next member from a queue until none is left. So that no rank has to serve the queue, it is
a folder: a member belongs to the group that makes its subfolder.
"""

from __future__ import annotations

import glob
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ampmpi.errors import InputError, ModelError, Unfinished
from ampmpi.model import NeuralNetwork, amp_file
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree, share
from ampmpi.parallel.launch import stop
from ampmpi.training.curve import Step
from ampmpi.training.dataset import Dataset
from ampmpi.training.fit import FitResult, Schedule
from ampmpi.training.job import Prepared, fit

STOP = "stop"


@dataclass(frozen=True)
class Member:
    """One model to fit.

    Attributes
    ----------
    name : str
        Name in files and tables.
    hidden : tuple of int
        Nodes of the hidden layers.
    seat : int
        Place in the committee that it competes for.
    seed : int
        Seed of its weights.
    draw : int or None
        Seed with which its images are drawn; None: all of them.
    """

    name: str
    hidden: tuple[int, ...]
    seat: int
    seed: int
    draw: int | None


@dataclass(frozen=True)
class MemberResult:
    """End of one member's fit; `outcome` is that of the fit, or what went wrong."""

    member: Member
    outcome: str
    steps: int
    best: Step | None
    file: str | None

    @property
    def score(self) -> float:
        """Validation loss, or training loss without a validation set; smaller is better."""
        if self.best is None:
            return np.inf
        return self.best.loss if np.isnan(self.best.val_loss) else self.best.val_loss


def make_members(
    hidden: Sequence[tuple[int, ...]],
    starts: int = 1,
    seats: int = 1,
    *,
    bootstrap: bool = False,
    seed: int = 0,
) -> list[Member]:
    """List the members: every architecture and start for each seat of the committee.

    A lone member has `seed` itself; the seeds of several are derived from it.
    """
    if starts < 1 or seats < 1:
        raise InputError("starts and committee must be at least 1")
    if len(set(hidden)) != len(hidden):
        raise InputError("the same hidden layers are given twice; use starts for several of them")
    lone = len(hidden) * starts * seats == 1
    members = []
    for seat in range(seats):
        draw = int(np.random.SeedSequence([seed, seat]).generate_state(1)[0])
        for nodes in hidden:
            for start in range(starts):
                derived = np.random.SeedSequence([seed, seat, start, *nodes]).generate_state(1)[0]
                members.append(
                    Member(
                        name=f"{'-'.join(map(str, nodes))}_member{seat}_start{start}",
                        hidden=nodes,
                        seat=seat,
                        seed=seed if lone else int(derived),
                        draw=draw if bootstrap else None,
                    )
                )
    return members


def group_size(n_ranks: int, n_members: int, groups: int | None = None) -> int:
    """Return how many ranks work on one member.

    Groups are of equal size, so that a member's numbers do not depend on which one takes
    it: their number is the largest divisor of the ranks that is not above the members.
    """
    if groups is None:
        groups = max(g for g in range(1, min(n_ranks, n_members) + 1) if n_ranks % g == 0)
    if groups < 1 or n_ranks % groups:
        raise InputError(f"{n_ranks} ranks cannot be split into {groups} groups of equal size")
    if groups > n_members:
        raise InputError(f"--groups {groups} is more than there is to fit, which is {n_members}")
    return n_ranks // groups


def draw_images(dataset: Dataset, draw: int | None) -> Mapping[str, float] | None:
    """Draw as many training images as there are, with replacement: how often each counts."""
    if draw is None:
        return None
    keys = dataset.keys[~dataset.validation]
    counts = np.bincount(
        np.random.default_rng(draw).integers(0, len(keys), len(keys)), minlength=len(keys)
    )
    return {
        key.decode(): float(count) for key, count in zip(keys, counts, strict=True) if count > 0
    }


def member_label(label: str, member: Member) -> str:
    """Return the prefix of a member's files, where it is one of several."""
    return f"{label}-members/{member.name}"


def committee_file(label: str, seat: int) -> str:
    """Return the file of the best calculator for a seat."""
    return f"{label}-committee-{seat}.amp"


def committee_files(label: str) -> list[str]:
    """Return the files of a label's committee that are there, by seat."""
    found = []
    for name in glob.glob(f"{glob.escape(label)}-committee-*.amp"):
        seat = name.removeprefix(f"{label}-committee-").removesuffix(".amp")
        if seat.isdecimal():
            found.append((int(seat), name))
    return [name for _, name in sorted(found)]


class Queue:
    """Hands each member to one group.

    Parameters
    ----------
    folder : Path or None
        A folder of this run's own, on a file system that all ranks see; None for one group.
    members : sequence of Member
        What there is to do.
    """

    def __init__(self, folder: Path | None, members: Sequence[Member]) -> None:
        self.folder = folder
        self.waiting = list(members)

    def take(self) -> Member | None:
        """Return a member that no other group has taken; None at the end, or after `close`."""
        while self.waiting:
            if self.folder is None:
                return self.waiting.pop(0)
            if (self.folder / STOP).exists():
                return None
            member = self.waiting.pop(0)
            try:
                (self.folder / member.name).mkdir()
            except FileExistsError:
                continue
            return member
        return None

    def close(self) -> None:
        """Let no group take another member."""
        self.waiting.clear()
        if self.folder is not None:
            (self.folder / STOP).touch()


def fit_members(
    comm: Communicator,
    group: Communicator,
    prepared: Prepared,
    members: Sequence[Member],
    make_model: Callable[[Member], NeuralNetwork],
    label: str,
    schedule: Schedule,
    make_log: Callable[[Member], Callable[[str], None]],
    log: Callable[[str], None],
    *,
    start_anew: bool = True,
) -> list[MemberResult]:
    """Fit all members, and return how each ended, on every rank.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    group : Communicator
        The ranks of this group.
    prepared : Prepared
        This group's images.
    members : sequence of Member
        What to fit.
    make_model : callable
        Makes a member's model.
    label : str
        Prefix of the files; see `member_label`.
    schedule : Schedule
        When to validate and to save.
    make_log : callable
        Opens a member's log on rank 0 of a group.
    log : callable
        Takes a line for each member's end, on rank 0 of a group.
    start_anew : bool
        As for `ampmpi.training.job.fit`.

    Raises
    ------
    Unfinished
        A signal asked to stop; every rank raises it.
    """
    folder = None
    if group.size < comm.size:
        folder = agree(comm, lambda: _make_queue(Path(f"{label}-members").absolute()))
    queue = Queue(folder, members)
    results: list[MemberResult] = []
    interrupted = False
    while (member := agree(group, queue.take)) is not None:
        try:
            own = label if len(members) == 1 else member_label(label, member)
            result = _fit_member(
                group,
                prepared,
                member,
                make_model(member),
                own,
                schedule,
                make_log(member),
                start_anew,
            )
        except Unfinished:
            interrupted = True
            queue.close()
            break
        results.append(result)
        log(f"{member.name}: {result.outcome} after {result.steps} steps, loss {result.score:.4g}")
    interrupted = interrupted or stop.requested
    everyone = comm.allgather((results if group.rank == 0 else [], interrupted))
    if folder is not None:
        agree(comm, lambda: shutil.rmtree(folder, ignore_errors=True))
    if any(flag for _, flag in everyone):
        done = sum(len(part) for part, _ in everyone)
        raise share(
            Unfinished(
                f"asked to stop with {done} of {len(members)} members done; start it again to go on"
            )
        )
    ended = {result.member.name: result for part, _ in everyone for result in part}
    return [ended[member.name] for member in members]


def _make_queue(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".queue-*"):
        shutil.rmtree(left, ignore_errors=True)
    queue = folder / f".queue-{secrets.token_hex(6)}"
    queue.mkdir()
    return queue


def _fit_member(
    group: Communicator,
    prepared: Prepared,
    member: Member,
    model: NeuralNetwork,
    label: str,
    schedule: Schedule,
    log: Callable[[str], None],
    start_anew: bool,
) -> MemberResult:
    try:
        drawn = draw_images(prepared.dataset, member.draw)
        result: FitResult = fit(
            group, prepared, model, label, schedule, log, drawn, start_anew=start_anew
        )
    except ModelError as error:
        return MemberResult(member, f"failed: {error}", 0, None, None)
    file = f"{label}.amp"
    if group.rank == 0:
        amp_file.write(file, prepared.descriptor.parameters, model.parameters)
    return MemberResult(member, result.outcome, result.steps, result.best, file)


def best_of(results: Sequence[MemberResult]) -> MemberResult | None:
    """Return the result with the smallest score; None when every fit failed."""
    good = [result for result in results if result.file is not None]
    return min(good, key=lambda result: result.score) if good else None


def committee_of(results: Sequence[MemberResult]) -> list[MemberResult]:
    """Return the best member for each seat."""
    seats = sorted({result.member.seat for result in results})
    chosen = (best_of([r for r in results if r.member.seat == seat]) for seat in seats)
    return [result for result in chosen if result is not None]


COLUMNS = ("loss", "energy_rmse", "force_rmse", "val_loss", "val_energy_rmse", "val_force_rmse")


def table(results: Sequence[MemberResult]) -> str:
    """Return how every member ended, one line each, the best first."""
    rows: list[list[Any]] = [["member", "outcome", "steps", *COLUMNS]]
    for result in sorted(results, key=lambda r: r.score):
        values = [getattr(result.best, name, np.nan) for name in COLUMNS]
        rows.append(
            [
                result.member.name,
                result.outcome.replace(" ", "-") if result.best else "failed",
                result.steps,
                *(f"{value:.6g}" for value in values),
            ]
        )
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    return "".join(
        "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in rows
    )
