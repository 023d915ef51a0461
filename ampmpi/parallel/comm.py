# ruff: noqa: D102  (the protocol says what each method does)
"""Communicators: MPI's if ranks were started, otherwise a serial stand-in.

This is the only module that imports mpi4py, and only when it is needed: a serial
run works without an MPI library.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import LaunchError
from ampmpi.parallel.launch import check_launcher, check_ranks, ranks_promised, under_launcher

T = TypeVar("T")

OBJECT = 1
"""Tag of the objects that rank 0 sends to the others."""


class Communicator(Protocol):
    """What the package needs of a group of ranks."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...

    def bcast(self, obj: T) -> T:
        """Return rank 0's object on every rank."""

    def gather(self, obj: T) -> list[T] | None:
        """Return the list of every rank's object on rank 0, None elsewhere."""

    def allgather(self, obj: T) -> list[T]:
        """Return the list of every rank's object on every rank."""

    def gather_rows(self, rows: NDArray[Any]) -> NDArray[Any] | None:
        """Return every rank's array joined along the first axis on rank 0, None elsewhere."""

    def scatter_each(self, part: Callable[[int], T]) -> T:
        """Return this rank's object, made by ``part(rank)`` on rank 0, one after the other.

        So rank 0 holds one object at a time; `part` is called there only.
        """

    def allreduce(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of every rank's array of the same shape."""

    def barrier(self) -> None:
        """Wait for every rank."""

    def rest(self) -> None:
        """Wait for every rank without using the processor: for waits of seconds or longer."""

    def split(self, color: int, key: int = 0) -> Communicator:
        """Return the communicator of the ranks with the same color."""

    def split_nodes(self) -> Communicator:
        """Return the communicator of the ranks on this node."""

    def tell(self, target: int, tag: int) -> None:
        """Send an empty message without waiting for its receipt."""

    def told(self, tag: int) -> int | None:
        """Receive one empty message if any has arrived, and return its sender."""

    def hear(self, source: int, tag: int) -> None:
        """Wait for an empty message from `source` and receive it."""

    def abort(self, code: int = 1) -> None:
        """End every rank of the job at once."""


class SerialCommunicator:
    """The one rank of a job without MPI."""

    rank = 0
    size = 1

    def bcast(self, obj: T) -> T:
        return obj

    def gather(self, obj: T) -> list[T] | None:
        return [obj]

    def allgather(self, obj: T) -> list[T]:
        return [obj]

    def gather_rows(self, rows: NDArray[Any]) -> NDArray[Any] | None:
        return rows

    def scatter_each(self, part: Callable[[int], T]) -> T:
        return part(0)

    def allreduce(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array(array, dtype=np.float64)

    def barrier(self) -> None:
        pass

    def rest(self) -> None:
        pass

    def split(self, color: int, key: int = 0) -> Communicator:
        return self

    def split_nodes(self) -> Communicator:
        return self

    def tell(self, target: int, tag: int) -> None:
        raise ValueError("a serial job has no other rank")

    def told(self, tag: int) -> int | None:
        return None

    def hear(self, source: int, tag: int) -> None:
        raise ValueError("a serial job has no other rank")

    def abort(self, code: int = 1) -> None:
        raise SystemExit(code)


class MPICommunicator:
    """The ranks of an mpi4py communicator.

    Attributes
    ----------
    mpi : mpi4py.MPI.Comm
        That communicator, for `ampmpi.parallel` alone.
    """

    def __init__(self, comm: Any) -> None:
        self.mpi: Any = comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

    def bcast(self, obj: T) -> T:
        return self.mpi.bcast(obj)  # type: ignore[no-any-return]

    def gather(self, obj: T) -> list[T] | None:
        return self.mpi.gather(obj)  # type: ignore[no-any-return]

    def allgather(self, obj: T) -> list[T]:
        return self.mpi.allgather(obj)  # type: ignore[no-any-return]

    def gather_rows(self, rows: NDArray[Any]) -> NDArray[Any] | None:
        from mpi4py import MPI

        rows = np.ascontiguousarray(rows)
        counts = self.mpi.gather(len(rows))
        width = int(np.prod(rows.shape[1:], dtype=np.int64)) * rows.dtype.itemsize
        row = MPI.BYTE.Create_contiguous(width).Commit()  # counts of bytes could exceed 2^31
        try:
            if self.rank != 0:
                self.mpi.Gatherv([rows, len(rows), row], None)
                return None
            joined = np.empty((sum(counts), *rows.shape[1:]), dtype=rows.dtype)
            starts = np.cumsum([0, *counts[:-1]])
            self.mpi.Gatherv([rows, len(rows), row], [joined, (counts, starts), row])
            return joined
        finally:
            row.Free()

    def scatter_each(self, part: Callable[[int], T]) -> T:
        if self.rank != 0:
            return self.mpi.recv(source=0, tag=OBJECT)  # type: ignore[no-any-return]
        for target in range(1, self.size):
            self.mpi.ssend(part(target), target, OBJECT)
        return part(0)

    def allreduce(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        array = np.ascontiguousarray(array, dtype=np.float64)
        total = np.empty_like(array)
        self.mpi.Allreduce(array, total)
        return total

    def barrier(self) -> None:
        self.mpi.Barrier()

    def rest(self) -> None:
        rest_until(self.mpi.Ibarrier().Test, 0.02)

    def split(self, color: int, key: int = 0) -> Communicator:
        return MPICommunicator(self.mpi.Split(color, key))

    def split_nodes(self) -> Communicator:
        from mpi4py import MPI

        return MPICommunicator(self.mpi.Split_type(MPI.COMM_TYPE_SHARED, self.rank))

    def tell(self, target: int, tag: int) -> None:
        # An empty message is sent eagerly, so that its completion needs no receiver.
        self.mpi.Isend(bytearray(), target, tag).Free()

    def told(self, tag: int) -> int | None:
        from mpi4py import MPI

        status = MPI.Status()
        if not self.mpi.Iprobe(MPI.ANY_SOURCE, tag, status):
            return None
        source: int = status.Get_source()
        self.hear(source, tag)
        return source

    def hear(self, source: int, tag: int) -> None:
        self.mpi.Recv(bytearray(), source, tag)

    def abort(self, code: int = 1) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(0.2)  # launchers drop what they have not read when a job is aborted
        self.mpi.Abort(code)
        os._exit(code)  # MPICH may come back before the launcher has ended this process


def rest_until(condition: Callable[[], bool], longest: float) -> None:
    """Sleep, at first for a moment and then up to `longest` seconds at a time, until it is true."""
    pause = 1e-4
    while not condition():
        time.sleep(pause)
        pause = min(2 * pause, longest)


def world() -> Communicator:
    """Return the communicator of the whole job.

    That is MPI's if a launcher started this process or MPI is in use already,
    otherwise a `SerialCommunicator`.

    Raises
    ------
    LaunchError
        When several ranks were started that do not see each other.
    """
    if "mpi4py.MPI" not in sys.modules and not under_launcher():
        return SerialCommunicator()
    try:
        MPI = start_mpi()
    except LaunchError:
        raise
    except (ImportError, RuntimeError) as error:
        if ranks_promised() > 1:
            raise LaunchError(
                f"{ranks_promised()} ranks were started, but mpi4py cannot load an MPI library "
                f"({error}): install mpi4py for this MPI, or load its module"
            ) from error
        return SerialCommunicator()
    size = MPI.COMM_WORLD.Get_size()
    check_ranks(size)
    return MPICommunicator(MPI.COMM_WORLD) if size > 1 else SerialCommunicator()


def start_mpi() -> Any:
    """Import mpi4py and start MPI, unless the launcher is one under which MPI would abort."""
    if "mpi4py.MPI" not in sys.modules:
        import mpi4py

        mpi4py.rc.initialize = False
    from mpi4py import MPI

    if not MPI.Is_initialized():
        check_launcher(MPI.get_vendor()[0])
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
        atexit.register(_end_mpi)
    return MPI


def _end_mpi() -> None:
    from mpi4py import MPI

    if not MPI.Is_finalized():
        MPI.Finalize()


def as_communicator(comm: Any = None) -> Communicator:
    """Return `comm` as a `Communicator`: None for the whole job, mpi4py's, or one of ours."""
    if comm is None:
        return world()
    if hasattr(comm, "Get_rank"):
        return MPICommunicator(comm) if comm.Get_size() > 1 else SerialCommunicator()
    result: Communicator = comm
    return result
