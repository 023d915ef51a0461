"""Compiled kernels: one rank compiles them, then all load them from the cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from ampmpi.heap import unload_code
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.launch import compile_lock, is_compiled, note_compiled


def _tell(line: str) -> None:
    sys.stderr.write(f"ampmpi: {line}\n")
    sys.stderr.flush()


def warm_up(comm: Communicator, package: str, tell: Callable[[str], None] = _tell) -> None:
    """Make the kernels of a package ready on every rank, by its function `warm_up`.

    If the cache has them already, all ranks load them at once. Otherwise rank 0
    compiles them first, then, for caches that are not shared, one rank of each
    other node; the rest find them in the cache.

    Rank 0 says on standard error that they are compiled, since that takes long.

    They are compiled in a separate process: code that several kernels share is linked
    differently in the process that compiles than in those that load, so that sums
    would differ in their last bit between ranks.
    """
    module = import_module(package)
    stamp = _stamp(package, Path(str(module.__file__)).parent)
    if all(comm.allgather(is_compiled(stamp))):
        module.warm_up()
        unload_code()
        return

    def compile_or_load() -> None:
        with compile_lock():
            if os.environ.get("NUMBA_CACHE_DIR") and not is_compiled(stamp):
                if comm.rank == 0:
                    tell(f"compiling the kernels of {package}, once: it can take a minute")
                _compile(package)
        module.warm_up()
        note_compiled(stamp)
        unload_code()

    in_turns(comm, compile_or_load)


def in_turns(comm: Communicator, function: Callable[[], object]) -> None:
    """Call a function on rank 0, then on one rank of each other node, then on the rest.

    So the very first call fills a cache in a shared folder, the first call of each node
    one in a folder of the node's own, and every other call finds it filled.
    """
    node = comm.split_nodes()
    turn = 0 if comm.rank == 0 else 1 if node.rank == 0 else 2
    for now in range(3):
        if turn == now:
            function()
        comm.rest()


def _compile(package: str) -> None:
    """Fill the cache; if that fails, because of a signal for instance, the caller compiles."""
    code = f"from {package} import warm_up; warm_up()"
    subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, check=False)


def _stamp(package: str, folder: Path) -> str:
    """Return a checksum that changes whenever the kernels have to be compiled again."""
    state = [version("numba"), package, str(folder)]
    for path in sorted(folder.glob("*.py")):
        status = path.stat()
        state.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.md5("|".join(state).encode(), usedforsecurity=False).hexdigest()
