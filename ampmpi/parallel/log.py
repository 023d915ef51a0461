"""What a job prints while it runs; only rank 0 does, and only here."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ampmpi.parallel import launch


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
        """Return a progress display for `total` steps: a bar where one can be shown, else lines."""
        return Progress(self, total, what, unit)


class LabelLog:
    """Appends to LABEL-log.txt on the first rank; the file is made at the first line.

    Parameters
    ----------
    label : str or None
        Prefix of the file; None is silent.
    """

    def __init__(self, label: str | None) -> None:
        self.path = None if label is None else f"{label}-log.txt"

    def __call__(self, message: str, toc: Any = None, tic: Any = None, **kwargs: Any) -> None:
        """Write a message as lines; Amp's keywords for the times of steps are taken."""
        if self.path is None or not launch.speaks():
            return
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{message}\n")


class Intervals:
    """When a batch log gets its next line, so that the log of a long job stays short.

    The first one is due after ten seconds, the following ones after growing intervals of up
    to five minutes.
    """

    FIRST, LONGEST = 10.0, 300.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.start = clock()
        self._wait = self.FIRST
        self._next = self.start + self.FIRST

    def due(self) -> float | None:
        """Return the seconds since the start if a line is due now, else None."""
        now = self.clock()
        if now < self._next:
            return None
        self._wait = min(2 * self._wait, self.LONGEST)
        self._next = now + self._wait
        return now - self.start


def in_notebook() -> bool:
    """Whether a notebook shows what this process prints."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)


def make_bar(log: Log, total: int, what: str, unit: str, done: int = 0) -> Any:
    """Return a tqdm bar where a terminal or a notebook can show it, else None."""
    if not (log.speaks and total):
        return None
    if in_notebook() and log.stream is sys.stdout:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without ipywidgets it is a bar of characters
            from tqdm.auto import tqdm
    elif log.stream.isatty():
        from tqdm import tqdm
    else:
        return None
    return tqdm(
        total=total, initial=done, desc=what, unit=" " + unit, file=log.stream, dynamic_ncols=True
    )


class Progress:
    """Progress of rank 0: a tqdm bar at a terminal or in a notebook, else a line at intervals."""

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
        self._intervals = Intervals(clock)
        self._bar = make_bar(log, total, what, unit)

    def step(self, count: int = 1) -> None:
        """Count `count` more steps as done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self.log.speaks:
            seconds = self._intervals.due()
            if seconds is not None:
                self.log(self.line(seconds))

    def line(self, seconds: float) -> str:
        """Return the line for a batch log, `seconds` after the start."""
        rate = self.done / max(seconds, 1e-9)
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
