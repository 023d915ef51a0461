"""Work is dealt evenly, and the same way every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampmpi.parallel.schedule import block, by_rank, chunks, deal


def readers(n_items: int, size: int) -> np.ndarray:
    """The rank that reads each item."""
    found = np.empty(n_items, np.uint16)
    for rank in range(size):
        found[chunks(n_items, rank, size)] = rank
    return found


@given(st.integers(0, 1000), st.integers(1, 50))
def test_blocks_cover_everything_once(n_items, size):
    blocks = [block(n_items, rank, size) for rank in range(size)]
    assert [item for share in blocks for item in share] == list(range(n_items))
    lengths = [len(share) for share in blocks]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("n_ranks", [2, 3, 16, 64, 1024])
@pytest.mark.parametrize("n_items", [1000, 30_000])
@pytest.mark.parametrize("order", ["mixed", "ascending", "descending"])
@pytest.mark.parametrize("at_home", [False, True])
def test_costs_that_differ_by_a_thousand_end_together(n_items, n_ranks, order, at_home):
    costs = 10 ** np.random.default_rng(3).uniform(0.0, 3.0, n_items)
    costs[:2] = 1.0, 1000.0
    if order != "mixed":
        costs = np.sort(costs)[:: 1 if order == "ascending" else -1]
    homes = readers(n_items, n_ranks) if at_home else None
    loads = np.bincount(deal(costs, n_ranks, homes=homes), costs, minlength=n_ranks)
    assert loads.sum() == pytest.approx(costs.sum())
    assert loads.max() <= loads.mean() + max(0.05 * loads.mean(), costs.max())


def test_sorted_costs_end_together():
    costs = np.sort(10 ** np.random.default_rng(4).uniform(0.0, 3.0, 20_000))
    for order in (costs, costs[::-1]):
        loads = np.bincount(deal(order, 16), order)
        assert loads.max() <= 1.02 * loads.mean()


@given(
    st.lists(st.floats(0.0, 1e6), max_size=60),
    st.integers(1, 9),
)
def test_no_rank_ends_later_than_one_image_after_the_mean(costs, n_ranks):
    owners = deal(costs, n_ranks)
    assert owners.shape == (len(costs),)
    assert np.all((owners >= 0) & (owners < n_ranks))
    loads = np.bincount(owners, np.array(costs, dtype=float), minlength=n_ranks)
    assert loads.max(initial=0.0) <= 1.05 * sum(costs) / n_ranks + max(costs, default=0.0) + 1e-6


def test_equal_costs_use_every_rank():
    for n_items in (5, 64, 100, 1000):
        counts = np.bincount(deal(np.ones(n_items), 5), minlength=5)
        assert counts.max() - counts.min() <= max(1, n_items // 50)


def test_neighbouring_images_stay_together():
    owners = deal(np.ones(100_000), 10)
    assert np.count_nonzero(np.diff(owners)) <= 10 * 64 + 10


def test_other_work_is_reckoned_with():
    costs = np.ones(1000)
    owners = deal(costs, 4, loads=[0.0, 0.0, 0.0, 200.0])
    loads = np.bincount(owners, costs, minlength=4) + np.array([0, 0, 0, 200])
    assert loads.max() <= 1.05 * loads.mean()


def test_costs_of_zero_are_spread_too():
    assert set(deal(np.zeros(100), 4)) == {0, 1, 2, 3}
    assert len(deal([], 3)) == 0


@given(
    st.lists(st.floats(0.0, 1e6), min_size=1, max_size=60),
    st.integers(1, 9),
    st.integers(0, 100),
)
def test_items_stay_at_home_where_that_is_fair(costs, n_ranks, seed):
    rng = np.random.default_rng(seed)
    homes = rng.integers(0, n_ranks, len(costs)).astype(np.int32)
    loads = rng.uniform(0.0, 1e5, n_ranks)
    owners = deal(costs, n_ranks, loads, homes)
    sums = loads + np.bincount(owners, np.array(costs, dtype=float), minlength=n_ranks)
    allowed = max(1.05 * sums.mean() + max(costs), loads.max() + max(costs))
    assert sums.max() <= allowed + 1e-6


def test_chunks_that_were_read_evenly_stay_at_home():
    homes = readers(10_000, 8)
    assert np.mean(deal(np.ones(10_000), 8, homes=homes) == homes) > 0.99
    costs = 10 ** np.random.default_rng(5).uniform(0.0, 3.0, 10_000)
    owners = deal(costs, 8, homes=homes)
    loads = np.bincount(owners, costs)
    assert loads.max() <= 1.05 * loads.mean()
    assert np.mean(owners == homes) > 0.8


@given(st.integers(0, 500), st.integers(1, 40))
def test_chunks_cover_everything_once(n_items, size):
    shares = [chunks(n_items, rank, size) for rank in range(size)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(n_items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 16
    assert n_items < size or min(map(len, shares)) > 0


@given(st.lists(st.integers(0, 4), max_size=50))
def test_items_by_rank(owners):
    order, ends = by_rank(np.array(owners, dtype=np.uint16), 5)
    shares = [share.tolist() for share in np.split(order, ends[:-1])]
    assert shares == [[i for i, owner in enumerate(owners) if owner == rank] for rank in range(5)]
