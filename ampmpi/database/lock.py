"""The lock of a compress: a courtesy between compressors, not what keeps data safe.

A lock is written complete and then linked into place, so that a reader never
sees half of one. Its holder touches it all the while. The lock of a process of
this host that has ended is broken at once; one of another host, or one that
cannot be read, after it stood still for ten minutes of the waiting process's
own clock, because clocks of hosts and file servers differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from typing import NamedTuple, Self

from ampmpi.database.layout import LOCK, Home
from ampmpi.errors import LockedError
from ampmpi.files.atomic import rename_new, temporary_name, write_new_file
from ampmpi.files.folder import Folder, Stamp
from ampmpi.files.owner import Owner
from ampmpi.files.trouble import database_error
from ampmpi.text import plain

HEARTBEAT = 30.0
"""Seconds between two touches of a lock by its holder."""

STALE_AFTER = 600.0
"""Seconds after which a lock that stands still is no longer believed."""

_POLL = 1.0
_MAX_SIZE = 4096


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, for which batch job and since when (seconds since 1970).

    All is None in a lock that cannot be read.
    """

    owner: Owner | None = None
    job: str | None = None
    since: float | None = None

    def __str__(self) -> str:
        if self.owner is None:
            return "an unknown process (the lock cannot be read)"
        text = f"process {self.owner.pid} on host {plain(self.owner.host)}"
        if self.job:
            text += f" (job {plain(self.job)})"
        if self.since is not None:
            text += f", since {_duration(time.time() - self.since)}"
        return text


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} seconds"


def read_holder(home: Home) -> Holder | None:
    """Return who holds the lock of a database; None if nobody does."""
    found = _look(home.root, LOCK)
    return None if found is None else _parse(found.content)


class _Seen(NamedTuple):
    content: bytes
    stamp: Stamp | None

    def is_same(self, other: _Seen) -> bool:
        """Whether it is the same lock, which may have been touched unless it cannot be read."""
        if self.content and other.content:
            return self.content == other.content
        return self.stamp == other.stamp


def _look(folder: Folder, name: str) -> _Seen | None:
    """Read a lock anew from the server; None if there is none."""
    try:
        return _Seen(*folder.read(name, _MAX_SIZE))
    except FileNotFoundError:
        return None
    except OSError:
        pass
    # What cannot be read, as a link or a directory, still shows whether it is touched.
    try:
        return _Seen(b"", Stamp.of(folder.status(name)))
    except FileNotFoundError:
        return None
    except OSError:
        return _Seen(b"", None)


def _parse(content: bytes) -> Holder:
    try:
        fields = json.loads(content)
        numbers = [int(fields[name]) for name in ("namespace", "pid", "start")]
        owner = Owner(str(fields["host"]), str(fields["boot"]), *numbers)
        job, since = fields.get("job"), float(fields["since"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError, AttributeError):
        return Holder()
    return Holder(owner, job if isinstance(job, str) else None, since)


class Lock:
    """Holds the lock of a database while a ``with`` block runs.

    Parameters
    ----------
    home : Home
        Which database.
    wait : float
        How many seconds to wait for another holder.
    break_lock : bool
        Take the lock from whoever holds it, at once.
    job : str, optional
        Id of this batch job, for others to read.
    stale_after : float
        How many seconds a lock must stand still before it is broken.

    Raises
    ------
    LockedError
        Another process holds it.
    DatabaseError
        It cannot be written.
    """

    def __init__(
        self,
        home: Home,
        *,
        wait: float = 0.0,
        break_lock: bool = False,
        job: str | None = None,
        stale_after: float = STALE_AFTER,
    ) -> None:
        self._home = home
        self._wait = wait
        self._break = break_lock
        self._job = job
        self._stale_after = stale_after
        self._content = b""
        self._released = threading.Event()
        self._beating: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._acquire()
        self._released.clear()
        self._beating = threading.Thread(target=self._beat, name="ampmpi-lock", daemon=True)
        self._beating.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._released.set()
        if self._beating is not None:
            self._beating.join()
        if self.is_held():
            with contextlib.suppress(OSError):
                self._home.root.unlink(LOCK)

    def is_held(self) -> bool:
        """Whether the lock is still this one: somebody may have broken it."""
        seen = _look(self._home.root, LOCK)
        return seen is not None and seen.content == self._content

    def require(self) -> None:
        """Raise LockedError if somebody broke the lock."""
        if not self.is_held():
            raise LockedError(
                f"the lock of {self._home.path} was taken away by somebody else "
                f"(--break-lock?): nothing was changed, start again"
            )

    def _acquire(self) -> None:
        deadline = time.monotonic() + self._wait
        still, since = None, 0.0
        while not self._take():
            seen, now = _look(self._home.root, LOCK), time.monotonic()
            if seen is None:
                continue
            if seen != still:
                still, since = seen, now
            holder = _parse(seen.content)
            dead = holder.owner.is_dead() if holder.owner else None
            if self._break or dead or (dead is None and now - since >= self._stale_after):
                self._break_lock(seen)
            elif now >= deadline:
                raise LockedError(
                    f"{self._home.path} is locked by {holder}: try again later, wait with "
                    f"--wait SECONDS, or, if that process is gone, use --break-lock"
                )
            else:
                time.sleep(min(_POLL, max(deadline - now, 0.01)))

    def _take(self) -> bool:
        fields = asdict(Owner.me()) | {
            "job": self._job,
            "nonce": secrets.token_hex(8),
            "since": round(time.time(), 3),
        }
        self._content = json.dumps(fields).encode()
        try:
            return write_new_file(
                self._home.temporaries, self._home.root, LOCK, self._content, "lock"
            )
        except FileNotFoundError:
            raise self._home.removed() from None

    def _break_lock(self, seen: _Seen) -> None:
        """Take the lock away that was seen, and no other one that may be in its place by now."""
        home, aside = self._home, temporary_name("broken")
        temporaries = home.temporaries
        try:
            home.root.rename(LOCK, temporaries, aside)
        except FileNotFoundError:
            return
        except OSError as error:
            raise database_error(error, "break the lock", home.full(LOCK)) from error
        taken = _look(temporaries, aside)
        if taken is not None and not taken.is_same(seen) and not self._break:
            with contextlib.suppress(OSError):
                # Somebody else's, who took it meanwhile: it goes back, unless there is a newer one.
                rename_new(temporaries, aside, home.root, LOCK)
        with contextlib.suppress(OSError):
            temporaries.unlink(aside)
        home.root.sync()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                if self.is_held():
                    os.utime(LOCK, dir_fd=self._home.root.descriptor)
