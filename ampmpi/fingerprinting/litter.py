"""Databases that a job made in vain are removed again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ampmpi.database.layout import LOOSE, MANIFEST, TEMPORARIES
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree

KINDS = ("fingerprints", "fingerprint-primes")


def not_there(comm: Communicator, label: str) -> list[str]:
    """Return those of a label's databases that do not exist yet."""
    names = [f"{label}-{kind}.ampdb" for kind in KINDS]
    return agree(comm, lambda: [name for name in names if not os.path.lexists(name)])


def remove_unused(comm: Communicator, names: Iterable[str]) -> None:
    """Remove databases, as far as nothing has been put into them.

    A job that is at work on one has a file in its folder of temporaries, with which nothing
    is removed.
    """
    comm.barrier()  # every rank has closed its files

    def remove() -> None:
        for name in map(Path, names):
            with suppress(OSError):  # it is not there, or it is used
                folders = [name / TEMPORARIES, name / LOOSE]
                is_used = any(map(os.listdir, folders))
                if is_used or not {*os.listdir(name)} <= {LOOSE, TEMPORARIES, MANIFEST}:
                    continue
                for folder in folders:
                    folder.rmdir()
                (name / MANIFEST).unlink()
                name.rmdir()

    agree(comm, remove)
