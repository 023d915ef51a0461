"""Communicators do on any number of ranks what they say."""

from __future__ import annotations

import numpy as np
import pytest

from ampmpi.errors import ImageFileError, Unfinished
from ampmpi.parallel.failure import agree, agree_alone, is_shared, raise_first
from ampmpi.parallel.kernels import in_turns
from ampmpi.parallel.launch import StopRequest
from ampmpi.parallel.stopping import Stopping

pytestmark = pytest.mark.mpi


def test_objects_go_around(comm):
    assert comm.bcast(("x", comm.rank)) == ("x", 0)
    assert comm.allgather(comm.rank**2) == [rank**2 for rank in range(comm.size)]
    gathered = comm.gather(comm.rank)
    assert gathered == (list(range(comm.size)) if comm.rank == 0 else None)


def test_sum_is_the_same_on_all_ranks(comm):
    mine = np.array([[comm.rank, 1.0], [0.5, -comm.rank]])
    ranks = sum(range(comm.size))
    total = comm.allreduce(mine)
    np.testing.assert_array_equal(total, [[ranks, comm.size], [comm.size / 2, -ranks]])


def test_each_rank_gets_what_was_made_for_it(comm):
    made = []

    def part(rank: int) -> tuple[int, np.ndarray]:
        made.append(rank)
        return rank, np.full(1000 * rank, rank)

    rank, mine = comm.scatter_each(part)
    assert rank == comm.rank
    assert mine.tolist() == [rank] * (1000 * rank)
    assert sorted(made) == (list(range(comm.size)) if comm.rank == 0 else [])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_rows_come_back_in_order(comm, dtype):
    counts = [(3 * rank) % 4 for rank in range(comm.size)]
    whole = np.arange(3 * sum(counts)).reshape(-1, 3).astype(dtype)
    begin = sum(counts[: comm.rank])
    joined = comm.gather_rows(whole[begin : begin + counts[comm.rank]])
    if comm.rank == 0:
        assert joined.dtype == dtype
        np.testing.assert_array_equal(joined, whole)
    else:
        assert joined is None


def test_no_rows_at_all(comm):
    joined = comm.gather_rows(np.empty((0, 16), np.uint8))
    if comm.rank == 0:
        assert joined.shape == (0, 16)


def test_error_of_rank_0_is_raised_everywhere(comm):
    def fail():
        raise ImageFileError("x.traj is missing")

    for function in (agree, agree_alone):
        with pytest.raises(ImageFileError, match="is missing") as caught:
            function(comm, fail)
        assert is_shared(caught.value)


def test_error_of_any_rank_is_raised_everywhere(comm):
    mine = ImageFileError(f"of rank {comm.rank}") if comm.rank == comm.size - 1 else None
    with pytest.raises(ImageFileError, match=f"of rank {comm.size - 1}"):
        raise_first(comm, mine)
    raise_first(comm, None)


@pytest.mark.parametrize("signalled", ["first", "last", "all"])
def test_a_warning_on_one_rank_stops_all(comm, signalled):
    request = StopRequest()
    stopping = Stopping(comm, request)
    chosen = {"first": [0], "last": [comm.size - 1], "all": range(comm.size)}[signalled]
    assert not request.requested
    if comm.rank in chosen:
        request.request("SIGUSR1")
    steps = 0
    while not stopping.asked():
        steps += 1
        assert steps < 10_000_000
    with pytest.raises(Unfinished):
        stopping.raise_if_asked("computing")


def test_a_warning_after_the_loop_leaves_no_message_behind(comm):
    request = StopRequest()
    stopping = Stopping(comm, request)
    if comm.rank == comm.size - 1:
        request.request("SIGUSR1")
        stopping.asked()
    assert stopping.settle()
    comm.barrier()
    assert comm.told(7575) is None
    comm.barrier()


def test_one_rank_goes_first(comm, shared_path):
    def step():
        found = sorted(path.name for path in shared_path.iterdir())
        (shared_path / str(comm.rank)).touch()
        if comm.rank == 0:
            assert found == []
        else:
            assert "0" in found

    in_turns(comm, step)
