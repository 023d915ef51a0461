"""Successive halving: many fits start, after each round the worse half ends, the others go on.

Each round doubles the steps that a fit may have made, so that all rounds cost about the same
(Jamieson & Talwalkar, Proc. Machine Learning Research 51, 240 (2016)). Fits for one seat of a
committee compete with each other. What every round has decided is kept in a file, as the
checkpoints of the fits that went on do not tell where they stood when it ended.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ampmpi.errors import InputError, ModelError
from ampmpi.files.whole import read_whole, write_whole
from ampmpi.members import Member, prefix_of
from ampmpi.text import amount
from ampmpi.training.earlier import START_OVER, Earlier, Start, digest_of, step_of
from ampmpi.training.results import MemberResult

FORMAT = 1

LARGEST = 10**8
"""Bytes of a file of rounds; the rounds of 10,000 fits take a tenth of that."""


@dataclass(frozen=True)
class Round:
    """What a round has decided.

    Attributes
    ----------
    steps : int
        Steps that a fit had made when it ended, the most of all; where time ended it, fewer
        than it was planned for.
    results : tuple of MemberResult
        How the fits that took part stood; `out` is the number of the round where they ended
        with it.
    """

    steps: int
    results: tuple[MemberResult, ...]

    def line(self, number: int, n_rounds: int) -> str:
        """Say how a round ended."""
        best = min(self.results, key=lambda one: one.score)
        return (
            f"Round {number} of {n_rounds}, to step {self.steps}: {len(self.left)} of "
            f"{amount(len(self.results), 'fit')} go on, the best {best.name} with a validation "
            f"loss of {best.score:.4g}"
        )

    @property
    def left(self) -> tuple[str, ...]:
        """Names of the fits that go on."""
        return tuple(one.name for one in self.results if one.out is None)


@dataclass
class Bracket:
    """The rounds of a training, those that are over and those to come."""

    path: Path
    digest: str  # of the fits that compete, and what determines them
    n: int  # fits that compete for a seat
    seats: int
    limits: list[int]  # steps up to which the fits of each round go
    done: list[Round] = field(default_factory=list)

    def add(self, results: Sequence[MemberResult]) -> Round:
        """Decide who goes on after a round; nothing is written yet."""
        left, number = survivors(results), len(self.done) + 1
        ended = [one if one.name in left else replace(one, out=number) for one in results]
        self.done.append(Round(max(one.steps for one in results), tuple(ended)))
        return self.done[-1]

    def plan(self) -> str:
        """Say how many fits go how far."""
        numbers = [self.n]
        while len(numbers) < len(self.limits):
            numbers.append(math.ceil(numbers[-1] / 2))
        each = zip(numbers, self.limits, strict=True)
        seats = f" for each of {self.seats} seats" if self.seats > 1 else ""
        steps = ", ".join(f"{n} to step {steps}" for n, steps in each)
        return f"{len(self.limits)} rounds{seats}: {steps}"

    def save(self) -> None:
        """Write down what the rounds have decided so far."""
        rounds = [
            {"steps": one.steps, "fits": [_plain(result) for result in one.results]}
            for one in self.done
        ]
        head = {"format": FORMAT, "sweep": self.digest, "rounds": rounds}
        write_whole(self.path, json.dumps(head, indent=1).encode())


def file_of(label: str) -> Path:
    """Return the file with the rounds of a label."""
    return Path(f"{label}-members/halving.json")


def limits(n: int, most: int, every: int) -> list[int]:
    """Return the steps up to which the fits of each round go.

    Parameters
    ----------
    n : int
        Fits that compete for a seat.
    most : int
        Steps of the last round, in which one is left.
    every : int
        The other rounds end at a multiple of this: where a fit is validated anyway, so that it
        takes the same way as without rounds.
    """
    n_before = math.ceil(math.log2(n))
    steps = [math.ceil(most / 2 ** (n_before - k) / every) * every for k in range(n_before)]
    return [*(min(step, most) for step in steps), most]


def survivors(results: Sequence[MemberResult]) -> set[str]:
    """Return the names of the better half of the fits for each seat, which failed ones are not."""
    left: set[str] = set()
    for seat in {one.seat for one in results}:
        here = [one for one in results if one.seat == seat]
        good = sorted((one for one in here if one.best is not None), key=lambda one: one.score)
        left |= {one.name for one in good[: math.ceil(len(here) / 2)]}
    return left


def look(
    label: str,
    members: Sequence[Member],
    found: Earlier,
    every: int,
    *,
    overwrite: bool,
    restart: bool,
) -> Bracket:
    """Find what rounds of this training are over; nothing is changed yet.

    Where the file is of another one, all fits start over, with the permission to do so.

    Raises
    ------
    InputError
        It is of another training, which is not to be replaced.
    ModelError
        It cannot be read.
    """
    settings = [
        (one.name, one.seat, start.settings)
        for one, start in zip(members, found.starts, strict=True)
    ]
    digest = digest_of(json.dumps(settings, sort_keys=True, default=repr).encode())
    seats = [member.seat for member in members]
    n = max(seats.count(seat) for seat in seats)
    path = file_of(label)
    most = members[0].model.lossfunction.maxiter
    bracket = found.bracket = Bracket(path, digest, n, len(set(seats)), limits(n, most, every))
    if restart:
        found.stale.append(path)
        return bracket
    known = read(path)
    if known is None:
        return bracket
    theirs, rounds = known
    if theirs == digest and len(rounds) < len(bracket.limits):
        bracket.done = rounds
        ended = {one.name for over in rounds for one in over.results if one.out is not None}
        found.starts = [
            replace(start, out=member.name in ended)
            for member, start in zip(members, found.starts, strict=True)
        ]
        return bracket
    if not overwrite:
        raise InputError(
            f"{path} is of a sweep with other fits or settings (it had {_fits(rounds)}, this one "
            f"has {len(members)}): go back to them, take another label, or give --overwrite "
            "to start over"
        )
    found.forgotten += [prefix_of(label, member, members) for member in members]
    found.stale.append(path)
    found.starts = [Start(start.settings) for start in found.starts]
    return bracket


def read(path: Path) -> tuple[str, list[Round]] | None:
    """Read a file of rounds: whose they are, and what they decided; None where there is none.

    Raises
    ------
    ModelError
        It cannot be read, or is no such file.
    """
    try:
        head = json.loads(read_whole(path, LARGEST))
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise ValueError("it is of another version, or no such file")
        rounds = [
            Round(int(one["steps"]), tuple(_result(fit) for fit in one["fits"]))
            for one in head["rounds"]
        ]
        return str(head["sweep"]), rounds
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}); {START_OVER}") from error


def history(
    rounds: Sequence[Round],
) -> tuple[list[int], dict[str, list[float]], dict[str, int]]:
    """Return the steps at which rounds ended, the scores in them by fit, and who was out when."""
    scores: dict[str, list[float]] = {}
    for one in rounds:
        for fit in one.results:
            scores.setdefault(fit.name, []).append(fit.score)
    out = {fit.name: fit.out for one in rounds for fit in one.results if fit.out is not None}
    return [one.steps for one in rounds], scores, out


def _fits(rounds: Sequence[Round]) -> int:
    return len(rounds[0].results) if rounds else 0


def _plain(result: MemberResult) -> dict[str, Any]:
    best = None if result.best is None else [float(value) for value in astuple(result.best)]
    return {
        "name": result.name,
        "seat": result.seat,
        "outcome": result.outcome,
        "steps": result.steps,
        "best": best,
        "out": result.out,
    }


def _result(given: Mapping[str, Any]) -> MemberResult:
    best = given["best"]
    return MemberResult(
        str(given["name"]),
        int(given["seat"]),
        str(given["outcome"]),
        int(given["steps"]),
        None if best is None else step_of(np.array(best, dtype=float)),
        None,
        None if given["out"] is None else int(given["out"]),
    )
