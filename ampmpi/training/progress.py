"""What the user sees of a fit while it runs: a bar at a terminal or in a notebook, else a table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from ampmpi.parallel.log import Intervals, Log, make_bar
from ampmpi.training.curve import Step

COLUMNS = {
    "step": 14, "energy": 11, "force": 9, "val. energy": 11, "val. force": 10,
    "steps/s": 9, "left at most": 12,
}  # fmt: skip


class FitProgress:
    """Steps of one fit, with rms errors and the time that is left; used on one rank.

    A batch log gets a row of a table after ten seconds and then at growing intervals of up to
    five minutes. The time left is that until the last step allowed; a fit that meets its
    criteria ends earlier.

    Parameters
    ----------
    log : Log
        Where it is shown; one that does not speak shows nothing.
    name : str
        What is fitted.
    """

    def __init__(self, log: Log, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.log, self.name = log, name
        self._clock = clock
        self._first = self._most = 0
        self._seconds = math.inf
        self._intervals = Intervals(clock)
        self._bar: Any = None
        self._has_rows = False
        self._validated: Step | None = None

    def begin(self, done: int, most: int, seconds: float = math.inf) -> None:
        """Start the display of a fit that has made `done` steps, and may make `most`.

        `seconds` is how long it may take.
        """
        self._first, self._most, self._seconds = done, most, seconds
        self._intervals = Intervals(self._clock)
        self._bar = make_bar(self.log, most, self.name, "steps", done)

    def show(self, step: Step) -> None:
        """Take note of a step."""
        if not math.isnan(step.val_energy_rmse):
            self._validated = step
        if self._bar is not None:
            self._bar.set_postfix_str(errors_of(step), refresh=False)
            self._bar.update(step.step - self._bar.n)
        elif self.log.speaks:
            seconds = self._intervals.due()
            if seconds is not None:
                if not self._has_rows:
                    self.log(f"{self.name}: rms errors in meV/atom and meV/Å")
                    self.log(" ".join(f"{name:>{width}}" for name, width in COLUMNS.items()))
                    self._has_rows = True
                self.log(self.row(step, seconds))

    def row(self, step: Step, seconds: float) -> str:
        """Return a row of the table, `seconds` after the start."""
        rate = (step.step - self._first) / max(seconds, 1e-9)
        left = (self._most - step.step) / rate if rate else math.nan
        left = min(left, max(self._seconds - seconds, 0.0))
        errors = [step.energy_rmse, step.force_rmse, math.nan, math.nan]
        if self._validated is not None:  # not every step is
            errors[2:] = self._validated.val_energy_rmse, self._validated.val_force_rmse
        cells = [
            f"{step.step}/{self._most}",
            *("-" if math.isnan(error) else f"{1e3 * error:.4g}" for error in errors),
            f"{rate:.3g}",
            duration(left),
        ]
        widths = COLUMNS.values()
        return " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))

    def end(self) -> None:
        """End the display."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def errors_of(step: Step) -> str:
    """Return a step's rms errors in a few words."""
    forces = "" if math.isnan(step.force_rmse) else f", {1e3 * step.force_rmse:.3g} meV/Å"
    stress = "" if math.isnan(step.stress_rmse) else f", {1e3 * step.stress_rmse:.3g} meV/Å³"
    return f"{1e3 * step.energy_rmse:.3g} meV/atom{forces}{stress}"


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
