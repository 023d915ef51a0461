"""Members of a committee: what there is to fit, under which names, and who takes which.

A lone training is a committee of one member. The ranks are split into groups of equal size.
Each group holds all images, and takes the next member from a queue until none is left. So that
no rank has to serve the queue, it is a folder: a member belongs to the group that makes its
subfolder.
"""

from __future__ import annotations

import glob
import re
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ampmpi.errors import InputError
from ampmpi.model import NeuralNetwork

STOP = "stop"


@dataclass(frozen=True, eq=False)
class Member:
    """One model to fit.

    Attributes
    ----------
    name : str
        Name in files and tables.
    model : NeuralNetwork
        The model, which gets the parameters found.
    seat : int
        Place in the committee that it competes for.
    draw : int or None
        Seed with which its images are drawn; None: all of them.
    """

    name: str
    model: NeuralNetwork
    seat: int = 0
    draw: int | None = None


def make_members(
    make_model: Callable[[tuple[int, ...], int], NeuralNetwork],
    hidden: Sequence[tuple[int, ...]],
    starts: int = 1,
    seats: int = 1,
    *,
    bootstrap: bool = False,
    seed: int = 0,
) -> list[Member]:
    """List the members: every architecture and start for each seat of the committee.

    Parameters
    ----------
    make_model : callable
        Makes an untrained model from its hidden layers and the seed of its weights.
    hidden : sequence of tuple of int
        Nodes of the hidden layers of each architecture.
    starts : int
        Random starts of each.
    seats : int
        Seats of the committee.
    bootstrap : bool
        Draw the images of each seat anew.
    seed : int
        Seed of a lone member; the seeds of several are derived from it.

    Raises
    ------
    InputError
        An architecture is given twice.
    """
    if len(set(hidden)) != len(hidden):
        raise InputError("the same hidden layers are given twice; use starts for several of them")
    lone = len(hidden) * starts * seats == 1
    return [
        Member(
            name=f"{'-'.join(map(str, nodes))}_member{seat}_start{start}",
            model=make_model(nodes, seed if lone else _seed(seed, seat, start, *nodes)),
            seat=seat,
            draw=_seed(seed, seat) if bootstrap else None,
        )
        for seat in range(seats)
        for nodes in hidden
        for start in range(starts)
    ]


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


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


def prefix_of(label: str, member: Member, members: Sequence[Member]) -> str:
    """Return the prefix of a member's files; a lone member has the label's own."""
    return label if len(members) == 1 else f"{label}-members/{member.name}"


def list_of(label: str) -> Path:
    """Return the file that lists the members of a label, and which of them has which seat."""
    return Path(f"{label}-members.txt")


def committee_file(label: str, seat: int) -> str:
    """Return the file of the best calculator for a seat."""
    return f"{label}-committee-{seat}.amp"


def targets(label: str, members: Sequence[Member]) -> list[str]:
    """Return the files in which a training will save its calculators."""
    seats = sorted({member.seat for member in members})
    return [f"{label}.amp"] + [committee_file(label, s) for s in seats if len(seats) > 1]


def committee_files(label: str) -> list[str]:
    """Return the files of a label's committee that are there, by seat.

    Only what the label's own list of members names belongs to it: files of the same form may
    be those of another label.
    """
    try:
        text = list_of(label).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    form = re.compile(re.escape(Path(label).name) + r"-committee-(\d{1,9})\.amp")
    last = (line.split()[-1] for line in text.splitlines() if line.strip())
    seats = sorted({int(match[1]) for name in last if (match := form.fullmatch(name))})
    return [name for seat in seats if Path(name := committee_file(label, seat)).exists()]


def calculator_files(name: str) -> list[str]:
    """Return the .amp files that a name stands for; none where it stands for something else.

    That is a file or a pattern of files, in the order of the numbers in their names, or a
    label: its committee or, without one, its one calculator.
    """
    if name.endswith(".amp"):
        if Path(name).exists():
            return [name]
        return sorted(glob.glob(name), key=by_numbers)
    alone = f"{name}.amp"
    return committee_files(name) or ([alone] if Path(alone).is_file() else [])


def by_numbers(name: str) -> list[tuple[int, str]]:
    """Return by what names are sorted so that number 2 comes before number 10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


class Queue:
    """Hands each member to one group.

    The folder is this run's own, on a file system that all ranks see; None for one group.
    """

    def __init__(self, folder: Path | None, members: Sequence[Member]) -> None:
        self.folder = folder
        self.waiting = [member.name for member in members]

    def take(self) -> str | None:
        """Return the name of a member that no other group has; None at the end, or if closed."""
        while self.waiting:
            if self.folder is None:
                return self.waiting.pop(0)
            if (self.folder / STOP).exists():
                return None
            name = self.waiting.pop(0)
            try:
                (self.folder / name).mkdir()
            except FileExistsError:
                continue
            return name
        return None

    def close(self) -> None:
        """Let no group take another member."""
        self.waiting.clear()
        if self.folder is not None:
            (self.folder / STOP).touch()


def make_queue(label: str) -> Path:
    """Make the folder of a queue, and remove those that killed runs have left."""
    folder = Path(f"{label}-members").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".queue-*"):
        shutil.rmtree(left, ignore_errors=True)
    queue = folder / f".queue-{secrets.token_hex(6)}"
    queue.mkdir()
    return queue
