"""The ranks of a job as a `concurrent.futures.Executor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, cast

from ampmpi.parallel.comm import Communicator, MPICommunicator

_FEW = 4
"""So many ranks besides rank 0 are few: it works on tasks itself while they are busy."""


@contextmanager
def as_executor(comm: Communicator) -> Iterator[Executor | None]:
    """Give rank 0 the other ranks to work for it; collective.

    They do the tasks that it submits until its block ends, whatever ends it, and
    then go on with a block of their own, in which they get None; so does a lone rank.
    An error of a task is its future's. Functions are sent by name, tasks and results
    pickled.
    """
    if not isinstance(comm, MPICommunicator) or comm.size == 1:
        yield None
        return
    from mpi4py.futures import MPICommExecutor

    with MPICommExecutor(comm.mpi, root=0) as given:
        executor = cast("Executor | None", given)
        if executor is not None:
            yield _Helping(executor, comm.size - 1) if comm.size <= _FEW else executor
    if comm.rank != 0:
        yield None


class _Helping(Executor):
    """An executor that computes a task itself when each of its workers has one waiting."""

    def __init__(self, others: Executor, count: int) -> None:
        self._others, self._limit = others, 2 * count
        self._busy: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._busy = [future for future in self._busy if not future.done()]
        if len(self._busy) < self._limit:
            future = self._others.submit(fn, *args, **kwargs)
            self._busy.append(future)
            return future
        here: Future[Any] = Future()
        here.set_running_or_notify_cancel()
        try:
            here.set_result(fn(*args, **kwargs))
        except Exception as error:  # as every executor does: it is raised where it is asked for
            here.set_exception(error)
        return here
