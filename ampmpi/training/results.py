"""How fits ended: the best of them, the table of all, and the files that hold them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ampmpi.descriptor import Descriptor
from ampmpi.files.whole import write_whole
from ampmpi.members import committee_file, committee_files, list_of
from ampmpi.training.curve import Step
from ampmpi.training.earlier import STALLED


@dataclass(frozen=True, eq=False)
class MemberResult:
    """End of one member's fit.

    Attributes
    ----------
    name : str
        The member's name.
    seat : int
        Place in the committee that it competes for.
    outcome : str
        That of the fit, or what went wrong.
    steps : int
        Evaluations of the loss.
    best : Step or None
        Errors at the parameters; None where the fit failed.
    file : str or None
        The .amp file with the parameters.
    """

    name: str
    seat: int
    outcome: str
    steps: int
    best: Step | None
    file: str | None

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
        'converged', 'maxiter', 'maxtime', 'early stopping' or 'stalled'.
    file : str
        The .amp file with the parameters.
    best : Step
        Errors at these parameters.
    steps : int
        Evaluations of the loss.
    descriptor : Descriptor
        The descriptor, with its elements.
    members : tuple of MemberResult
        How every fit ended.
    """

    outcome: str
    file: str
    best: Step
    steps: int
    descriptor: Descriptor
    members: tuple[MemberResult, ...]


def best_of(results: Sequence[MemberResult]) -> MemberResult | None:
    """Return the result with the smallest score; None when every fit failed."""
    good = [result for result in results if result.file is not None]
    return min(good, key=lambda result: result.score, default=None)


COLUMNS = ("loss", "energy_rmse", "force_rmse", "val_loss", "val_energy_rmse", "val_force_rmse")


def _table(results: Sequence[MemberResult], files: dict[str, str]) -> str:
    """Return how every member ended, one line each, the best first; `files` by member's name."""
    rows: list[list[Any]] = [["member", "outcome", "steps", *COLUMNS, "committee"]]
    for result in sorted(results, key=lambda r: r.score):
        values = [getattr(result.best, name, np.nan) for name in COLUMNS]
        outcome = result.outcome.replace(" ", "-") if result.best else "failed"
        numbers = [f"{value:.6g}" for value in values]
        file = Path(files.get(result.name, "-")).name
        rows.append([result.name, outcome, str(result.steps), *numbers, file])
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in rows
    )


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
    seats = sorted({result.seat for result in results})
    seated = [best_of([one for one in results if one.seat == seat]) for seat in seats]
    chosen = [one for one in seated if one is not None]
    saved = {}
    if len(chosen) > 1:
        saved = {one.name: committee_file(label, i) for i, one in enumerate(chosen)}
        for one in chosen:
            _copy(one, saved[one.name])
    _copy(best, file)
    for name in before:
        if name not in saved.values():
            Path(name).unlink()
            say(f"{name} of an earlier training is removed")
    if len(results) > 1:
        text = _table(results, saved)
        write_whole(list_of(label), text.encode())
        say(text.rstrip())
    else:
        list_of(label).unlink(missing_ok=True)
    if saved:
        first, *_, last = saved.values()
        say(f"Committee: {first} to {last}")
    say(f"{file}: {best.outcome} after {best.steps} steps, {_errors(best.best)}")
    return file


def _errors(best: Step | None) -> str:
    assert best is not None
    lines = []
    for kind, energy, force in (
        ("training", best.energy_rmse, best.force_rmse),
        ("validation", best.val_energy_rmse, best.val_force_rmse),
    ):
        forces = "" if math.isnan(force) else f", {1e3 * force:.3g} meV/Å"
        if not math.isnan(energy):
            lines.append(f"{kind} rmse {1e3 * energy:.3g} meV/atom{forces}")
    return "\n".join(lines)


def _copy(result: MemberResult, target: str) -> None:
    assert result.file is not None
    if result.file != target:
        write_whole(target, Path(result.file).read_bytes())
