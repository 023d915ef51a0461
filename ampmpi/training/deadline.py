"""When time ends a training: after so many seconds, or shortly before its batch job does."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from ampmpi.parallel.launch import job_end

MARGIN, SHARE = 60.0, 0.1
"""Seconds that are left of a batch job for what follows the last step, files and a compress; of a
short job this share of its time."""

STEPS = 3.0
"""So many times the longest step are left as well: its validation, and the loss of the best one."""


@dataclass(frozen=True)
class Deadline:
    """When the steps of a fit have to end, by this process's monotonic clock.

    Attributes
    ----------
    end : float
        No step is begun that would end later, s.
    seconds : float or None
        The limit that was given, where that is what decides; None: the batch job.
    finishes : bool
        Whether the fit is finished then. Otherwise it is interrupted, as by a signal.
    """

    end: float = math.inf
    seconds: float | None = None
    finishes: bool = False

    @classmethod
    def of(cls, seconds: float | None, began: float) -> Deadline:
        """Return the deadline of a job that began at `began` and is to take `seconds` at most."""
        left = job_end() - time.time()
        by_job = time.monotonic() + left - max(0.0, min(MARGIN, SHARE * left))
        if seconds is None:
            return cls(by_job)
        end = began + seconds
        return cls(end, seconds, True) if end <= by_job else cls(by_job, None, True)

    def part(self, n: int) -> Deadline:
        """Return the deadline of the first of `n` fits that share the time that is left."""
        now = time.monotonic()
        if not self.finishes or n <= 1 or self.end <= now:
            return self
        return replace(self, end=now + (self.end - now) / n)

    @property
    def left(self) -> float:
        """Seconds that are left; infinite without a limit."""
        return self.end - time.monotonic()

    def over(self, step: float = 0.0) -> bool:
        """Whether to end now, where a step takes up to `step` seconds."""
        return self.left <= (1.0 if self.seconds is not None else STEPS) * step

    @property
    def reason(self) -> str:
        """What ended the fit, in words."""
        if self.seconds is not None:
            return f"max-seconds is {self.seconds:g}"
        return "the time of the batch job is nearly over"


UNLIMITED = Deadline()
