"""Who made a temporary or a lock, and whether that process still lives."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from functools import cache
from typing import Self

_NO_BOOT = "0" * 8
_ANY_HOST = ("localhost", "localhost.localdomain")
"""Names that many hosts have: another boot there may be another, living host."""


@cache
def hostname() -> str:
    """Name of this host, of letters that a file name may hold."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())[:64]


@cache
def boot_id() -> str:
    """Eight hex digits that change when this host starts anew; zeros if there are none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
            return file.read(8).decode("ascii")
    except (OSError, ValueError):
        return _NO_BOOT


@cache
def pid_namespace() -> int:
    """Return the number of the process-id namespace: elsewhere the same pid is another process."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def process_start(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 if unknown, -1 if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(4096).rpartition(b")")[2].split()
        return -1 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0


@dataclass(frozen=True)
class Owner:
    """A process, told apart from every other one that ever was.

    Attributes
    ----------
    host, boot : str
        Host name and what tells its boots apart.
    namespace, pid, start : int
        Process-id namespace, process id, and start time in clock ticks.
    """

    host: str
    boot: str
    namespace: int
    pid: int
    start: int

    @classmethod
    def me(cls) -> Self:
        """Return this process."""
        pid = os.getpid()
        return cls(hostname(), boot_id(), pid_namespace(), pid, _own_start(pid))

    def is_dead(self) -> bool | None:
        """Whether the process has ended; None where that cannot be known from here."""
        if self.host != hostname() or _NO_BOOT in (self.boot, boot_id()):
            return None
        if self.boot != boot_id():
            return None if self.host in _ANY_HOST else True
        if self.namespace != pid_namespace():
            return None
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except OSError:
            pass  # another user's
        start = process_start(self.pid)
        return start != self.start if start and self.start else None


@cache
def _own_start(pid: int) -> int:
    return process_start(pid)
