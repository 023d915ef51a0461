"""The parts of the job that need no ranks."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk

from ampmpi.database.packs import PackLimits
from ampmpi.database.store import Listing
from ampmpi.entries import Fingerprint, FingerprintPrimes
from ampmpi.entries.compare import TOLERANCE, difference, disagreement
from ampmpi.fingerprinting import inventory
from ampmpi.fingerprinting.inventory import Seen, first_of_each
from ampmpi.fingerprinting.missing import deal_images, find_misses
from ampmpi.fingerprinting.summary import Plan, Summary
from ampmpi.images import ImageList, ImageRef
from ampmpi.keys import digests_of, member_of
from ampmpi.parallel.comm import SerialCommunicator
from ampmpi.parallel.schedule import chunks

KEYS = [f"{number:032x}" for number in (7, 3, 7, 1, 3, 7, 256, 0)]


def test_first_of_equal_images():
    usable = np.ones(len(KEYS), dtype=bool)
    usable[0] = False
    first, repeated, times = first_of_each(digests_of(KEYS), usable)
    assert first.tolist() == [1, 2, 3, 6, 7]
    assert repeated.tolist() == [1, 2]
    assert times.tolist() == [2, 2]


def test_many_images_are_handled_piece_by_piece(monkeypatch):
    monkeypatch.setattr(inventory, "ROWS", 7)
    rng = np.random.default_rng(1)
    for n_images in (0, 1, 6, 7, 8, 100):
        keys = [f"{number:032x}" for number in rng.integers(0, 60, n_images)]
        usable = rng.random(n_images) < 0.9
        expected: dict[str, list[int]] = {}
        for index in np.flatnonzero(usable).tolist():
            expected.setdefault(keys[index], []).append(index)
        first, repeated, times = first_of_each(digests_of(keys), usable)
        assert first.tolist() == sorted(found[0] for found in expected.values())
        several = {found[0]: len(found) for found in expected.values() if len(found) > 1}
        assert dict(zip(repeated.tolist(), times.tolist(), strict=True)) == several
        assert repeated.tolist() == sorted(several)
        rows = np.arange(n_images) * 10
        assert inventory._only(rows, first).tolist() == (first * 10).tolist()
        stored = sorted({f"{number:032x}" for number in range(0, 60, 3)})
        there = member_of(digests_of(keys), digests_of(stored))
        assert there.tolist() == [key in stored for key in keys]


def grown(function) -> int:
    """Return how many bytes more there were at some time during a call."""
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class RankZero(SerialCommunicator):
    """Rank 0 of many: what the others send is made up, what they receive is thrown away."""

    size = 64

    def __init__(self, digests: np.ndarray, costs: np.ndarray) -> None:
        self.columns = {2: digests.view(np.uint8).reshape(-1, 16), 1: costs}
        self.received = self.sent = 0

    def gather(self, obj, root=0):
        return [obj, *[type(obj)() if obj is not None else None for _ in range(self.size - 1)]]

    def gather_rows(self, rows, root=0):
        parts = [chunks(len(self.columns[1]), rank, self.size) for rank in range(self.size)]
        whole = self.columns[rows.ndim][np.concatenate(parts)]
        self.received += whole.nbytes
        return whole

    def scatter_each(self, part, root=0):
        for rank in range(1, self.size):
            made = part(rank)
            columns = made if isinstance(made, tuple) else (made,)
            self.sent += sum(column.nbytes for column in columns)
        return part(0)


class Stored:
    """A database that holds these digests, loose."""

    def __init__(self, digests: np.ndarray) -> None:
        self._digests, self.corrupt = digests, {}

    def listing(self) -> Listing:
        listed = bytearray()  # grows as in `loose.digests`
        for start in range(0, len(self._digests), 100):
            listed += self._digests[start : start + 100].tobytes()
        found = np.frombuffer(listed, "S16")
        found.sort()
        return Listing(found, found)

    def missing(self, keys, check: bool) -> set[str]:
        return set()

    def close(self) -> None:
        pass


@pytest.mark.parametrize("part_stored", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("part_alike", [0.0, 0.5])
def test_start_up_on_rank_0_takes_64_bytes_an_image(part_stored, part_alike):
    """The peak of all that is there at once, from the survey to the dealing; and all messages."""
    n_images, rng = 400_000, np.random.default_rng(0)
    digests = rng.integers(0, 256, (n_images, 16), dtype=np.uint8).view("S16").ravel()
    alike = rng.random(n_images) < part_alike
    digests[alike] = digests[rng.integers(0, n_images, alike.sum())]
    costs = rng.uniform(1.0, 1000.0, n_images).astype(np.float32)
    stored = Stored(digests[rng.random(n_images) < part_stored])
    comm = RankZero(digests, costs)
    mine = chunks(n_images, 0, comm.size)
    n_mine = 0

    def start_up() -> None:
        nonlocal n_mine
        locators = np.arange(n_images)
        inventory._scatter_locators(locators, n_images, comm)
        seen = Seen(mine.tolist(), [digests[i].ljust(16, b"\0") for i in mine],
                    costs[mine].tolist(), {}, {29})  # fmt: skip
        found = inventory._gather(ImageList(range(n_images)), locators, comm, seen)
        del locators, seen
        what, _ = find_misses(found.digests, {1: stored, 2: stored}, comm, False)
        shares, _ = deal_images(found, what, {}, comm)
        n_mine = len(shares[0].indices)

    assert grown(start_up) <= 64 * n_images
    assert comm.received <= 64 * n_images
    assert comm.sent <= 64 * n_images
    assert n_mine <= n_images // 32


def test_what_is_present():
    stored = digests_of(sorted([KEYS[6], KEYS[1]]))
    assert member_of(digests_of(KEYS), stored).tolist() == [
        key in (KEYS[6], KEYS[1]) for key in KEYS
    ]
    assert not member_of(digests_of(KEYS), digests_of([])).any()


def test_no_digest_is_taken_for_another():
    # Zero bytes at the end are where fixed-width strings could go wrong.
    pairs = ["00" * 16, "01" + "00" * 15, "01" + "00" * 14 + "01", "0100" + "01" * 14]
    for key in pairs:
        expected = [other == key for other in pairs]
        assert member_of(digests_of(pairs), digests_of([key])).tolist() == expected


def test_difference_is_relative_to_the_largest_value():
    atoms = bulk("Cu", cubic=True)
    symbols, n_features = tuple(atoms.symbols), {"Cu": 2}
    a = Fingerprint(symbols, n_features, np.full((4, 2), 10.0))
    b = Fingerprint(symbols, n_features, a.values + 1e-6)
    assert difference(a, b) == pytest.approx(1e-7, rel=1e-3)
    assert difference(a, Fingerprint(symbols, {"Cu": 3}, np.ones((4, 3)))) == np.inf
    assert difference(a, Fingerprint(("Pt",) * 4, {"Pt": 2}, a.values)) == np.inf
    near, far = (
        Fingerprint(symbols, n_features, a.values * (1 + by * TOLERANCE)) for by in (0.5, 2)
    )
    assert disagreement(a, near) is None
    assert "differs by 2.0e-08 of the largest value" in str(disagreement(a, far))
    assert "other atoms" in str(disagreement(a, Fingerprint(symbols, {"Cu": 3}, np.ones((4, 3)))))


def test_pair_without_derivative_counts_as_zero():
    atoms = bulk("Cu", cubic=True)
    symbols, n_features = tuple(atoms.symbols), {"Cu": 2}
    pairs = np.array([[0, 0], [1, 0], [1, 1]], dtype=np.int32)
    values = np.ones((3, 3, 2))
    values[1] = 0.25
    whole = FingerprintPrimes(symbols, n_features, pairs, values)
    part = FingerprintPrimes(symbols, n_features, pairs[[0, 2]], values[[0, 2]])
    assert difference(whole, whole) == 0
    assert difference(whole, part) == 0.25


def test_summary_in_words():
    summary = Summary(
        images=10, duplicates=2, found=3, computed=5, ranks=2, seconds=4.0, compute_seconds=2.0
    )
    assert summary.rate == 1.25
    assert summary.lines() == [
        "10 images, 2 duplicates, 3 found, 5 computed, 0 failed, 4.0 s on 2 ranks, "
        "1.25 images/s/rank"
    ]
    dry = Summary(images=10, duplicates=2, found=3, plan=(Plan("x.ampdb", 5, 12345),))
    assert dry.lines() == [
        "10 images, 2 duplicates, 3 found, 5 to compute, 0 failed",
        "x.ampdb: 5 files, about 12.3 kB; with --packs about 1 file on 1 rank",
    ]
    assert str(ImageRef("a.traj", 3)) == "a.traj, image 3"
    assert str(ImageRef("", 3)) == "image 3"


@pytest.mark.parametrize(
    ("entries", "n_bytes", "ranks", "limits", "packs"),
    [
        (0, 0, 4, PackLimits(), 0),
        (3, 10**6, 4, PackLimits(), 3),
        (1000, 10**6, 4, PackLimits(), 4),
        # 5.7 GB deflated: 1.425 GB a rank of four, and thus six packs of 256 MB
        (1000, 10**10, 4, PackLimits(), 4 * 6),
        (1000, 10**10, 1, PackLimits(), 23),
        (1000, 10**10, 4, PackLimits.of(megabytes=64), 4 * 23),
    ],
)
def test_the_number_of_packs_follows_from_size_and_ranks(entries, n_bytes, ranks, limits, packs):
    assert Plan("x.ampdb", entries, n_bytes).packs(ranks, limits) == packs


def test_a_dry_run_says_how_many_files_there_are_either_way():
    plans = (Plan("x.ampdb", 5000, 10**8), Plan("y.ampdb", 5000, 10**10), Plan("z.ampdb", 0, 0))
    loose = Summary(images=5000, ranks=4, plan=plans)
    assert loose.lines()[1:] == [
        "x.ampdb: 5000 files, about 100 MB; with --packs about 4 files on 4 ranks",
        "y.ampdb: 5000 files, about 10 GB; with --packs about 24 files on 4 ranks",
        "z.ampdb: 0 files",
        "10000 small files are slow where nodes share a file system, and count against a quota: "
        "give --packs",
    ]
    packed = replace(loose, packs=PackLimits.of(seconds=60))
    assert packed.lines()[1:] == [
        "x.ampdb: about 4 files on 4 ranks, about 57 MB; without --packs 5000 files",
        "y.ampdb: about 24 files on 4 ranks, about 5.7 GB; without --packs 5000 files",
        "z.ampdb: 0 files",
        "a rank whose pack is 60 s old begins another one, so that a long job makes more files",
    ]


def test_few_files_need_no_packs():
    few = Summary(images=5000, ranks=4, plan=(Plan("x.ampdb", 9999, 10**8),))
    assert not any("give --packs" in line for line in few.lines())
