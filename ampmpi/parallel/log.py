"""What a job prints while it runs; only rank 0 does, and only here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


class Log:
    """Messages of rank 0; silent on the others.

    Parameters
    ----------
    rank : int
        This rank.
    quiet : bool
        Print nothing at all.
    stream : file, optional
        Standard output by default.
    """

    def __init__(self, rank: int = 0, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.speaks = rank == 0 and not quiet

    def __call__(self, message: str) -> None:
        """Write one message as lines of its own; ``?`` for what the terminal cannot show."""
        if self.speaks:
            encoding = getattr(self.stream, "encoding", None) or "utf-8"
            self.stream.write(message.encode(encoding, "replace").decode(encoding) + "\n")
            self.stream.flush()

    def progress(self, total: int, what: str, unit: str = "images") -> Progress:
        """Return a progress display for `total` steps: a bar at a terminal, else lines."""
        return Progress(self, total, what, unit)


class Progress:
    """Progress of rank 0: a tqdm bar at a terminal, a line at intervals elsewhere.

    The first line comes after ten seconds and the following ones at growing intervals
    of up to five minutes, so that the log of a long job stays short.
    """

    FIRST, LONGEST = 10.0, 300.0

    def __init__(
        self,
        log: Log,
        total: int,
        what: str,
        unit: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.log, self.total, self.what, self.unit = log, total, what, unit
        self.done = 0
        self._clock = clock
        self._start = clock()
        self._wait = self.FIRST
        self._next = self._start + self.FIRST
        self._bar = None
        if log.speaks and total and log.stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, desc=what, unit=" " + unit, file=log.stream, dynamic_ncols=True
            )

    def step(self, count: int = 1) -> None:
        """Count `count` more steps as done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self.log.speaks:
            now = self._clock()
            if now >= self._next:
                self._wait = min(2 * self._wait, self.LONGEST)
                self._next = now + self._wait
                self.log(self.line(now))

    def line(self, now: float) -> str:
        """Return the line for a batch log."""
        rate = self.done / max(now - self._start, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        percent = 100 * self.done // self.total
        return (
            f"{self.what}: {self.done} of {self.total} {self.unit} ({percent} %), "
            f"{rate:.3g} {self.unit}/s, about {left:.0f} s left"
        )

    def close(self) -> None:
        """End the display."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def counted(log: Log, label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that takes the number of steps done and of all steps, and shows them.

    The display begins with its first call.
    """
    bars: list[Progress] = []

    def show(done: int, total: int) -> None:
        if not bars:
            bars.append(log.progress(total, label, unit))
        bars[0].step(done - bars[0].done)

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()
