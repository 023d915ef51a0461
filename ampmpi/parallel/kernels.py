"""Compiled kernels: one rank has them compiled, all load what is then in the cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.launch import compile_lock, is_compiled, keeps_kernels, note_compiled
from ampmpi.parallel.nodes import in_turns


def warm_up(comm: Communicator, package: str) -> None:
    """Make the kernels of a package ready on every rank, by its function `warm_up`.

    Where the cache has them already, all ranks load them at once. Else rank 0
    has them compiled first, then, for caches that are not shared, one rank of
    each other node; the rest find them.

    They are compiled in a process of their own: where they are compiled, code that
    several kernels share is linked otherwise than where they are loaded, and sums
    would differ in their last bit between the ranks.
    """
    module = import_module(package)
    stamp = _stamp(package, Path(str(module.__file__)).parent)
    if all(comm.allgather(is_compiled(stamp))):
        module.warm_up()
        return

    def compile_or_load() -> None:
        with compile_lock():
            if keeps_kernels() and not is_compiled(stamp):
                _compile(package)
        module.warm_up()
        note_compiled(stamp)

    in_turns(comm, compile_or_load)


def _compile(package: str) -> None:
    """Fill the cache; where that fails, as by a signal, the caller compiles for itself."""
    code = f"from {package} import warm_up; warm_up()"
    subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, check=False)


def _stamp(package: str, folder: Path) -> str:
    """Return what changes whenever the kernels have to be compiled anew."""
    state = [version("numba"), package, str(folder)]
    for path in sorted(folder.glob("*.py")):
        status = path.stat()
        state.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.md5("|".join(state).encode(), usedforsecurity=False).hexdigest()
