"""Which ranks of earlier jobs are dead.

To take a living rank for a dead one may cost the user an image, to take a dead
one for a living one costs a job more. So nothing is guessed from clocks of two
machines.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from ampmpi.errors import DatabaseError
from ampmpi.files.atomic import write_file
from ampmpi.files.owner import boot_id, hostname
from ampmpi.fingerprinting.inflight import Job, Marker
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.slurm import Scontrol

STILL = 600.0
"""Seconds after which a rank of which nothing else is known counts as dead if it stood still."""

NO_BOOT = "0" * 8
"""What is the same on all machines that do not tell their starts apart."""

SEEN = "inflight.json"
"""File in ``tmp/`` that says since when the unknown ranks stand still."""


def find_dead(
    directory: str, markers: Sequence[Marker], me: Job, comm: Communicator
) -> list[Marker]:
    """Return on rank 0 the markers of ranks that are dead; every rank calls this.

    Whether a process lives is known on its own host, so each is asked for by a
    rank there. Of a process on a host where this job has no rank it is known
    when this job is a restart of its job, when another rank of its job is dead,
    since a job ends as a whole, and when SLURM says how its job is. What
    remains is dead when it stood still for long.

    Parameters
    ----------
    directory : str
        The database's ``tmp/``.
    markers : sequence of Marker
        What is there, the same on all ranks.
    me : Job
        This job.
    comm : Communicator
        Its ranks.
    """
    host = hostname()
    verdicts: dict[str, bool] = {}
    if markers and comm.allgather(host).index(host) == comm.rank:
        for marker in markers:
            dead = marker.owner.is_dead() if marker.owner.host == host else None
            if dead is not None:
                verdicts[marker.name] = dead
    parts = comm.gather(verdicts) if markers else [verdicts]
    if parts is None or comm.rank != 0:
        return []
    known = {name: dead for part in parts for name, dead in part.items()}
    ended = {marker.job for marker in markers if known.get(marker.name)} - {None}
    slurm = Scontrol(me.batch.rpartition(".")[2])
    unknown = []
    for marker in markers:
        if marker.name in known:
            continue
        dead = True if marker.job in ended else _job_has_ended(marker, me, slurm)
        if dead is None:
            unknown.append(marker)
        else:
            known[marker.name] = dead
    known |= _stand_still(directory, unknown)
    return [marker for marker in markers if known[marker.name]]


def _job_has_ended(marker: Marker, me: Job, slurm: Scontrol) -> bool | None:
    """Whether a rank's job has ended; None if that cannot be known."""
    job = marker.job
    if job is None or not job.batch or not me.batch:
        return None
    if me.is_restart_of(job):
        return True
    cluster, _, number = job.batch.rpartition(".")
    if job.batch == me.batch or cluster != me.batch.rpartition(".")[0]:
        return None  # in one allocation, runs may follow each other
    return slurm.has_ended(number, job.restart, hidden=not marker.mine)


def _stand_still(directory: str, markers: Sequence[Marker]) -> dict[str, bool]:
    """Tell of each marker whether it stood still for long, by this machine's own clock.

    When a marker was first seen as it is now is kept in a file, for each machine
    that looked and each time that it was started.
    """
    path = Path(directory, SEEN)
    before = _read(path)
    now, boot = monotonic(), boot_id()
    seen: dict[str, Any] = {}
    dead: dict[str, bool] = {}
    for marker in markers:
        entry: dict[str, Any] = {"changed": list(marker.changed)}
        found = before.get(marker.name)
        if isinstance(found, dict) and found.get("changed") == entry["changed"]:
            entry = dict(found)
        since = entry.setdefault(boot, now)
        dead[marker.name] = isinstance(since, float) and now - since > STILL and boot != NO_BOOT
        if not dead[marker.name]:
            seen[marker.name] = entry
    with contextlib.suppress(OSError, DatabaseError):
        if not seen:
            path.unlink(missing_ok=True)
        elif seen != before:
            write_file(directory, str(path), json.dumps(seen).encode(), "inflight")
    return dead


def _read(path: Path) -> Mapping[str, Any]:
    """Return what the file holds; nothing if it is missing or damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
