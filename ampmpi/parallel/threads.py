"""One thread for BLAS: the ranks are the parallelism, and the networks are small."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ampmpi.parallel.launch import BLAS_THREADS


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS use one thread within the block, unless the environment says how many.

    The environment alone would come too late in a script that imports numpy first.
    """
    if any(os.environ.get(name, "1") != "1" for name in BLAS_THREADS):
        yield
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield
