"""One rank per node before the others."""

from __future__ import annotations

from collections.abc import Callable

from ampmpi.parallel.comm import Communicator


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
