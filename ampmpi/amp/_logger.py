"""Amp's log files, which can also tell how long something took."""

from __future__ import annotations

import datetime
import os
import time
from typing import Any

from ampmpi.errors import InputError
from ampmpi.parallel.comm import world


class Logger:
    """Writes lines to a file, on rank 0; the other ranks write nothing.

    Parameters
    ----------
    file : str, path, open text file or None
        Where to write; a name is appended to. None writes nothing.
    overwrite : bool
        Begin the file anew.
    """

    def __init__(self, file: Any, overwrite: bool = False) -> None:
        self.file: Any = None
        self.tics: dict[str, float] = {}
        self._tic: float | None = None
        if file is None or world().rank:
            return
        if isinstance(file, str | os.PathLike):
            self.filename = os.fspath(file)
            file = open(file, "w" if overwrite else "a", encoding="utf-8")  # noqa: SIM115
        self.file = file

    def tic(self, label: str | None = None) -> None:
        """Start a timer.

        Parameters
        ----------
        label : str, optional
            Its name, where several run at once.

        Raises
        ------
        InputError
            A timer of this name is running.
        """
        if self.file is None:
            return
        if not label:
            self._tic = time.time()
        elif label in self.tics:
            raise InputError(f"the log's timer {label!r} is running already; stop it with toc")
        else:
            self.tics[label] = time.time()

    def __call__(
        self,
        message: str,
        toc: bool | str = False,
        tic: bool | str = False,
        check: bool | str = False,
        flush: bool = True,
    ) -> None:
        """Write a line.

        Parameters
        ----------
        message : str
            The line.
        toc : bool or str
            Add the time since a timer was started, the nameless one or that of this name, and
            stop it.
        tic : bool or str
            Start a timer.
        check : bool or str
            As `toc`, but the timer goes on.
        flush : bool
            Let others see the line at once.

        Raises
        ------
        InputError
            The timer is not running, or is to be both stopped and kept.
        """
        if self.file is None:
            return
        duration = self._duration(toc, check) if toc or check else ""
        if self.file.closed:
            self.file = open(self.filename, "a", encoding="utf-8")  # noqa: SIM115
        self.file.write(message + duration + "\n")
        if flush:
            self.file.flush()
        if tic:
            self.tic(None if tic is True else tic)

    def _duration(self, toc: bool | str, check: bool | str) -> str:
        if toc and check:
            raise InputError("a log's line takes toc or check, not both")
        label = toc or check
        start = self._tic if label is True else self.tics.get(str(label))
        if start is None:
            raise InputError(f"the log's timer {label!r} is not running; start it with tic")
        if toc and label is not True:
            del self.tics[str(label)]
        seconds = time.time() - start
        for limit, factor, unit in ((60.0, 1 / 60, "min."), (1.0, 1.0, "s"), (1e-3, 1e3, "ms")):
            if seconds > limit:
                return f" {seconds * factor:.1f} {unit}"
        return f" {seconds * 1e6:.1f} us"


def make_filename(label: str | None, base_filename: str) -> str | None:
    """Return a file's name, made of a label and an ending; None without a label."""
    return None if label is None else label + base_filename


def now(with_utc: bool = False) -> str:
    """Return date and time to the second, of this place and, where asked for, UTC too."""
    moment = datetime.datetime.now(datetime.UTC)
    local, utc = (
        each.replace(tzinfo=None, microsecond=0).isoformat()
        for each in (moment.astimezone(), moment)
    )
    return f"{local} ({utc} UTC)" if with_utc else local
