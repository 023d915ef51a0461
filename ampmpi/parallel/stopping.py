"""A signal that one rank receives reaches all ranks, without a collective call."""

from __future__ import annotations

from ampmpi.errors import Unfinished
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import share
from ampmpi.parallel.launch import StopRequest, stop

TAG = 7575


class Stopping:
    """Whether the job was asked to stop, on any rank.

    A rank that receives a signal tells rank 0, and rank 0 tells all others, by
    empty messages for which each rank probes between two images.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    request : StopRequest
        The signals of this process.
    """

    def __init__(self, comm: Communicator, request: StopRequest = stop) -> None:
        self.comm = comm
        self.request = request
        self._told = False
        self._heard: set[int] = set()

    def asked(self) -> bool:
        """Return whether to stop now; takes about a microsecond."""
        comm = self.comm
        if comm.size > 1 and not self.request.requested:
            source = comm.told(TAG)
            if source is not None:
                self._heard.add(source)
                self.request.request(f"rank {source}")
        if self.request.requested and not self._told:
            self._told = True
            if comm.rank == 0:
                for target in range(1, comm.size):
                    comm.tell(target, TAG)
            else:
                comm.tell(0, TAG)
        return self.request.requested

    def settle(self) -> bool:
        """Return the same on every rank: whether any was asked to stop; collective.

        Messages that are still on their way are received.
        """
        comm = self.comm
        told = comm.allgather(self._told)
        if comm.rank == 0:
            sources = {rank for rank in range(1, comm.size) if told[rank]}
        else:
            sources = {0} if told[0] else set()
        for source in sources - self._heard:
            comm.hear(source, TAG)
        self._told, self._heard = False, set()
        return any(comm.allgather(self.request.requested))

    def raise_if_asked(self, doing: str) -> None:
        """Raise `Unfinished` on every rank if any was asked to stop; collective."""
        if self.settle():
            reason = self.request.signal_name or "a signal"
            self.request.request(reason)
            raise share(
                Unfinished(
                    f"stopped while {doing} ({reason}): "
                    "start the same command again to continue where it stopped"
                )
            )
