"""What kind of file system a folder is on, how much fits into it, and how fast small files are."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ampmpi.errors import DatabaseError
from ampmpi.text import plain

NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "gpfs",
    "lustre", "nfs", "nfs4", "panfs", "smb3", "wekafs",
}  # fmt: skip
MEMORY = {"ramfs", "tmpfs"}
QUOTA_COMMANDS = {
    "lustre": ["lfs", "quota", "-h", "-u", "{uid}", "{mount}"],
    "gpfs": ["mmlsquota", "--block-size", "auto"],
}


@dataclass(frozen=True)
class FileSystem:
    """The file system of a folder.

    Attributes
    ----------
    kind : str
        Its type, as the system calls it: ext4, nfs4, lustre, …
    mount : Path
        Where it is mounted.
    free_bytes : int
        Bytes that this user may still write.
    free_inodes : int or None
        Files that may still be created; None if the file system does not count them.
    """

    kind: str
    mount: Path
    free_bytes: int
    free_inodes: int | None

    @property
    def is_network(self) -> bool:
        """Whether other machines see the same files."""
        return self.kind in NETWORK

    @property
    def is_memory(self) -> bool:
        """Whether files are gone when the machine stops."""
        return self.kind in MEMORY


def nearest_folder(path: Path) -> Path:
    """Return the path itself if it is a folder, else the nearest one above it that exists."""
    try:
        path = path.absolute()
    except FileNotFoundError:
        raise DatabaseError("the working directory was removed: change to another one") from None
    while not path.is_dir():
        path = path.parent
    return path


def file_system(folder: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> FileSystem:
    """Return the file system of a folder that exists."""
    status = os.statvfs(folder)
    lines = os.fsdecode(mountinfo.read_bytes()).split("\n")
    kind, mount = mounted_at(folder.resolve(), lines)
    inodes = status.f_favail if status.f_files else None
    return FileSystem(kind, mount, status.f_bavail * status.f_frsize, inodes)


def mounted_at(folder: Path, lines: Iterable[str]) -> tuple[str, Path]:
    """Return kind and mount point of a folder's file system, from lines of ``mountinfo``.

    Format: proc(5), ``/proc/pid/mountinfo``; spaces in names are octal escapes. Where one
    mount hides another, the last one counts.
    """
    best = ("unknown", Path("/"))
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        mount = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
        if folder.is_relative_to(mount) and len(mount.parts) >= len(best[1].parts):
            best = (after.split()[0], mount)
    return best


def quota(system: FileSystem) -> str | None:
    """Return what the file system's own command prints about this user's quota, or None."""
    command = QUOTA_COMMANDS.get(system.kind, ["quota", "-w", "-s"])
    command = [word.format(uid=os.getuid(), mount=system.mount) for word in command]
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    return "\n".join(plain(line) for line in lines) or None


def seconds_per_file(folder: Path, n_files: int = 20, n_bytes: int = 16384) -> float:
    """Return the median time to write, rename, read and remove a small file, in seconds.

    Raises
    ------
    OSError
        When no file can be written in the folder.
    """
    times = []
    data = b"\0" * n_bytes
    with tempfile.TemporaryDirectory(prefix=".ampmpi-doctor-", dir=folder) as scratch:
        first, second = Path(scratch, "a"), Path(scratch, "b")
        for _ in range(n_files):
            start = time.perf_counter()
            first.write_bytes(data)
            first.rename(second)
            second.read_bytes()
            second.unlink()
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def is_writable(folder: Path) -> bool:
    """Return whether a file can be created in a folder, by trying: permissions do not tell all."""
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        file.write(bytes(4096))
        return True
    return False
