"""What is recorded of each step: the learning curve, and the lines of the log."""

from __future__ import annotations

import datetime
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path

from ampmpi.files.whole import named, write_whole
from ampmpi.model.settings import LossFunction


@dataclass(frozen=True)
class Step:
    """Errors at one evaluation of the loss; nan where they were not computed.

    Energies in eV per atom, forces in eV/Å, stresses in eV/Å³. ``force_rmse`` is the root of
    the mean over images of each image's mean squared force component, as in Amp, and
    ``stress_rmse`` that of the mean squared component of its stress. The ``val_`` fields are
    the same on the validation set. Where ``part`` is p, 1/4^p of the images stand for all.
    """

    step: int
    loss: float
    energy_rmse: float
    energy_maxresid: float
    force_rmse: float = math.nan
    force_maxresid: float = math.nan
    val_loss: float = math.nan
    val_energy_rmse: float = math.nan
    val_energy_maxresid: float = math.nan
    val_force_rmse: float = math.nan
    val_force_maxresid: float = math.nan
    part: float = 0.0
    seconds: float = math.nan
    stress_rmse: float = math.nan
    stress_maxresid: float = math.nan
    val_stress_rmse: float = math.nan
    val_stress_maxresid: float = math.nan


def columns_of(stress: bool) -> tuple[str, ...]:
    """Return the columns of a learning curve; those of the stress only where it is trained."""
    return tuple(field.name for field in fields(Step) if stress or "stress" not in field.name)


_UNKNOWN = {**dict.fromkeys(columns_of(stress=True), "nan"), "part": "0.0"}
"""What stands in a column that the file of an earlier version lacks."""


class Curve:
    """The table LABEL-curve.txt, which ``numpy.genfromtxt(file, names=True)`` reads.

    `last` is the step of the checkpoint that the training goes on from, 0 for a new one. What
    the file holds beyond it is done again, and taken out. `stress` adds columns.
    """

    def __init__(self, path: str | os.PathLike[str], last: int, *, stress: bool = False) -> None:
        self.path = Path(path)
        self.columns = columns_of(stress)
        rows = []
        if last and self.path.exists():
            head, *rest = self.path.read_text(encoding="utf-8").splitlines() or [""]
            names = head.split()[1:]
            for row in rest:
                values = row.split()
                whole = len(values) == len(names) > 0 and values[0].isdigit()
                if whole and int(values[0]) <= last:
                    known = {**_UNKNOWN, **dict(zip(names, values, strict=True))}
                    rows.append(" ".join(known[name] for name in self.columns) + "\n")
        write_whole(self.path, ("# " + " ".join(self.columns) + "\n" + "".join(rows)).encode())

    def append(self, step: Step) -> None:
        """Add one row; floats keep all their digits."""
        values = [
            f"{step.seconds:.3f}" if name == "seconds" else repr(float(getattr(step, name)))
            for name in self.columns[1:]
        ]
        row = " ".join([str(step.step), *values])
        with named(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(row + "\n")


def opening(lossfunction: LossFunction, n_images: int, validation: bool) -> str:
    """Return what the log says before a fit, in the words by which ``amp.analysis`` finds it.

    The table has Amp's columns, then those of the stress, then those of a validation set.
    Amp's reader counts the words of a row: no space comes before or in the latter two.
    """
    settings = lossfunction.settings()
    convergence = settings["convergence"]
    lines = [
        f"Amp training started. {datetime.datetime.now().isoformat(timespec='seconds')}",
        f" {n_images} unique images after hashing.",
        " Loss function convergence criteria:",
        *(f"  {name}: {convergence[name]}" for name in sorted(convergence)),
        " Loss function set-up:",
        *(
            f"  {name}: {settings[name]}"
            for name in (
                "energy_coefficient",
                "force_coefficient",
                "stress_coefficient",
                "overfit",
                "weight_duplicates",
            )
            if name in settings
        ),
    ]
    names = ["Step", "Time", "Loss (SSD)", "EnergyRMSE", "MaxResid"]
    more = ["StressRMSE", "MaxResid"] if lossfunction.trains_stress else []
    more += ["Val. ERMSE"] if validation else []
    if lossfunction.trains_forces:
        names += ["ForceRMSE", "MaxResid"]
        more += ["Val. FRMSE"] if validation else []
    if lossfunction.trains_stress:
        more += ["Val. SRMSE"] if validation else []
    widths = [5, 19] + [12] * (len(names) - 2)
    head = " ".join(f"{text:>{width}}" for text, width in zip(names, widths, strict=True))
    rule = " ".join(width * "=" for width in widths)
    return "\n".join([*lines, "|".join([head, *more]), "|".join([rule, *(10 * "=" for _ in more)])])


def log_line(step: Step, lossfunction: LossFunction) -> str:
    """Return a row of the log's table, with C where a criterion is met and - where it is not."""
    now = datetime.datetime.now().isoformat(timespec="seconds")
    text = f"{step.step:5d} {now:>19s} {step.loss:12.4e}"
    criteria = _criteria(step, lossfunction)
    stress = 2 if lossfunction.trains_stress else 0
    for value, limit in criteria[: len(criteria) - stress]:
        text += f" {value:10.4e} {'C' if value <= limit else '-'}"
    for value, limit in criteria[len(criteria) - stress :]:
        text += f"|{value:.4e}{'C' if value <= limit else '-'}"
    if not math.isnan(step.val_energy_rmse):
        text += f"|{step.val_energy_rmse:.4e}"
        if lossfunction.trains_forces:
            text += f"|{step.val_force_rmse:.4e}"
        if lossfunction.trains_stress:
            text += f"|{step.val_stress_rmse:.4e}"
    return text


def converged(step: Step, lossfunction: LossFunction) -> bool:
    """Whether a step meets every criterion."""
    return all(value <= limit for value, limit in _criteria(step, lossfunction))


def _criteria(step: Step, lossfunction: LossFunction) -> list[tuple[float, float]]:
    """Return the errors that count, each with its limit."""
    names = ["energy_rmse", "energy_maxresid"]
    if lossfunction.trains_forces:
        names += ["force_rmse", "force_maxresid"]
    if lossfunction.trains_stress:
        names += ["stress_rmse", "stress_maxresid"]
    limits = [lossfunction.convergence.get(name) for name in names]
    return [
        (getattr(step, name), math.inf if limit is None else limit)
        for name, limit in zip(names, limits, strict=True)
    ]
