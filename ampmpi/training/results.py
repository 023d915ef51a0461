"""How fits ended: the best of them, the table of all, and the files that hold them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ampmpi.descriptor import Gaussian
from ampmpi.files.whole import write_whole
from ampmpi.members import Member, committee_file, committee_files, list_of
from ampmpi.training.curve import Step
from ampmpi.training.start import STALLED


@dataclass(frozen=True, eq=False)
class MemberResult:
    """End of one member's fit.

    Attributes
    ----------
    member : Member
        Whose.
    outcome : str
        That of the fit, or what went wrong.
    steps : int
        Evaluations of the loss.
    best : Step or None
        Errors at the parameters; None where the fit failed.
    file : str or None
        The .amp file with the parameters.
    """

    member: Member
    outcome: str
    steps: int
    best: Step | None
    file: str | None

    def without_member(self) -> tuple[str, str, int, Step | None, str | None]:
        """Return the member's name and the rest, to be sent to other ranks."""
        return self.member.name, self.outcome, self.steps, self.best, self.file

    @property
    def score(self) -> float:
        """Validation loss, or training loss without a validation set; smaller is better."""
        if self.best is None:
            return math.inf
        return self.best.loss if math.isnan(self.best.val_loss) else self.best.val_loss


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """End of a training; of several fits the best one's.

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
    descriptor : Gaussian
        The descriptor, with its elements.
    members : tuple of MemberResult
        How every fit ended.
    """

    outcome: str
    file: str
    best: Step
    steps: int
    descriptor: Gaussian
    members: tuple[MemberResult, ...]

    @property
    def stalled(self) -> list[MemberResult]:
        """The fits whose optimiser found no lower loss before it reached the criteria."""
        return [one for one in self.members if one.outcome == STALLED]


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


def table(results: Sequence[MemberResult], files: Sequence[str] = ()) -> str:
    """Return how every member ended, one line each, the best first.

    `files` are the committee's, in the order of `committee_of`: the last column has them.
    """
    names = {
        result.member.name: Path(file).name
        for result, file in zip(committee_of(results), files, strict=False)
    }
    rows: list[list[Any]] = [["member", "outcome", "steps", *COLUMNS, "committee"]]
    for result in sorted(results, key=lambda r: r.score):
        values = [getattr(result.best, name, np.nan) for name in COLUMNS]
        rows.append(
            [
                result.member.name,
                result.outcome.replace(" ", "-") if result.best else "failed",
                result.steps,
                *(f"{value:.6g}" for value in values),
                names.get(result.member.name, "-"),
            ]
        )
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    return "".join(
        "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in rows
    )


def targets(label: str, members: Sequence[Member]) -> list[str]:
    """Return the files in which a training will save its calculators."""
    seats = sorted({member.seat for member in members})
    return [f"{label}.amp"] + [committee_file(label, s) for s in seats if len(seats) > 1]


def save(
    label: str,
    results: Sequence[MemberResult],
    best: MemberResult,
    say: Callable[[str], None],
) -> str:
    """Save the best model and the committee, say how all ended, and return the best one's file.

    The seats of an earlier, larger committee of the label are removed, so that nothing takes
    them for a part of this one. Where every fit stalled the file has the name that Amp gives it.
    """
    everything_stalled = all(result.outcome == STALLED for result in results if result.best)
    file = f"{label}-untrained-parameters.amp" if everything_stalled else f"{label}.amp"
    before = committee_files(label)
    chosen = committee_of(results)
    saved = [committee_file(label, i) for i in range(len(chosen))] if len(chosen) > 1 else []
    for result, name in zip(chosen, saved, strict=False):
        _copy(result, name)
    _copy(best, file)
    for name in before:
        if name not in saved:
            Path(name).unlink()
            say(f"{name} of an earlier training is removed")
    if len(results) > 1:
        text = table(results, saved)
        write_whole(list_of(label), text.encode())
        say(text.rstrip())
    else:
        list_of(label).unlink(missing_ok=True)
    if saved:
        say(f"Committee: {saved[0]} to {saved[-1]}")
    for line in _summary(file, best):
        say(line)
    return file


def _summary(file: str, best: MemberResult) -> list[str]:
    errors = best.best
    assert errors is not None
    kinds = [("training", errors.energy_rmse, errors.force_rmse)]
    if not math.isnan(errors.val_energy_rmse):
        kinds.append(("validation", errors.val_energy_rmse, errors.val_force_rmse))
    lines = []
    for kind, energy, force in kinds:
        forces = "" if math.isnan(force) else f", {1e3 * force:.3g} meV/Å"
        lines.append(f"{kind} rmse {1e3 * energy:.3g} meV/atom{forces}")
    lines[0] = f"{file}: {best.outcome} after {best.steps} steps, {lines[0]}"
    return lines


def _copy(result: MemberResult, target: str) -> None:
    assert result.file is not None
    if result.file != target:
        write_whole(target, Path(result.file).read_bytes())
