"""The parts of the job that need no ranks."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from ase.build import bulk

from ampmpi.database.index import digests_of
from ampmpi.entries import Fingerprint, FingerprintPrimes
from ampmpi.fingerprinting import inventory
from ampmpi.fingerprinting.adoption import difference, needed_of
from ampmpi.fingerprinting.dealing import deal_images
from ampmpi.fingerprinting.inventory import Inventory, first_of_each, present
from ampmpi.fingerprinting.summary import Plan, Summary
from ampmpi.images import ImageList, ImageRef
from ampmpi.parallel.comm import SerialCommunicator
from ampmpi.parallel.schedule import readers

KEYS = [f"{number:032x}" for number in (7, 3, 7, 1, 3, 7, 256, 0)]


def test_first_of_equal_images():
    usable = np.ones(len(KEYS), dtype=bool)
    usable[0] = False
    first, times = first_of_each(digests_of(KEYS), usable)
    assert first.tolist() == [1, 2, 3, 6, 7]
    assert times.tolist() == [2, 2, 1, 1, 1]


def test_many_images_are_handled_piece_by_piece(monkeypatch):
    monkeypatch.setattr(inventory, "ROWS", 7)
    rng = np.random.default_rng(1)
    for n_images in (0, 1, 6, 7, 8, 100):
        keys = [f"{number:032x}" for number in rng.integers(0, 60, n_images)]
        usable = rng.random(n_images) < 0.9
        expected: dict[str, list[int]] = {}
        for index in np.flatnonzero(usable).tolist():
            expected.setdefault(keys[index], []).append(index)
        first, times = first_of_each(digests_of(keys), usable)
        assert first.tolist() == sorted(found[0] for found in expected.values())
        assert times.tolist() == [len(expected[keys[index]]) for index in first]
        stored = sorted({f"{number:032x}" for number in range(0, 60, 3)})
        there = present(digests_of(keys), digests_of(stored))
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


def test_memory_of_rank_0_per_image():
    n_images, rng = 200_000, np.random.default_rng(0)
    digests = rng.integers(0, 256, (n_images, 16), dtype=np.uint8).view("S16").ravel()
    costs = rng.uniform(1.0, 1000.0, n_images).astype(np.float32)
    homes = readers(n_images, 64)
    stored = np.sort(digests)
    first = np.arange(n_images)
    found = Inventory(ImageList([]), ("Cu",), digests, costs, homes, np.arange(n_images), {})

    class Many(SerialCommunicator):
        size = 64

        def scatter_rows(self, rows, counts, root=0):
            return rows[: counts[0]]

    def deal_all():
        deal_images(found, first, np.ones(n_images, np.uint8), Counter(), Many())

    steps = {
        "equal images": lambda: first_of_each(digests, np.ones(n_images, bool)),
        "what is there": lambda: present(digests, stored),
        "dealing": deal_all,
    }
    for what, step in steps.items():
        assert grown(step) <= 64 * n_images, what


def test_what_is_present():
    stored = digests_of(sorted([KEYS[6], KEYS[1]]))
    assert present(digests_of(KEYS), stored).tolist() == [key in (KEYS[6], KEYS[1]) for key in KEYS]
    assert not present(digests_of(KEYS), digests_of([])).any()


def test_no_digest_is_taken_for_another():
    # Zero bytes at the end are where fixed-width strings could go wrong.
    pairs = ["00" * 16, "01" + "00" * 15, "01" + "00" * 14 + "01", "0100" + "01" * 14]
    for key in pairs:
        expected = [other == key for other in pairs]
        assert present(digests_of(pairs), digests_of([key])).tolist() == expected


@pytest.mark.parametrize(
    ("entries", "needed"), [(0, 0), (3, 3), (10, 10), (999, 10), (1000, 10), (1001, 11)]
)
def test_how_many_entries_have_to_agree(entries, needed):
    assert needed_of(entries) == needed


def test_difference_is_relative_to_the_largest_value():
    atoms = bulk("Cu", cubic=True)
    symbols, n_features = tuple(atoms.symbols), {"Cu": 2}
    a = Fingerprint(symbols, n_features, np.full((4, 2), 10.0))
    b = Fingerprint(symbols, n_features, a.values + 1e-6)
    assert difference(a, b, atoms) == pytest.approx(1e-7, rel=1e-3)
    assert difference(a, Fingerprint(symbols, {"Cu": 3}, np.ones((4, 3))), atoms) == np.inf
    assert difference(a, Fingerprint(("Pt",) * 4, {"Pt": 2}, a.values), atoms) == np.inf


def test_pair_without_derivative_counts_as_zero():
    atoms = bulk("Cu", cubic=True)
    symbols, n_features = tuple(atoms.symbols), {"Cu": 2}
    pairs = np.array([[0, 0], [1, 0], [1, 1]], dtype=np.int32)
    values = np.ones((3, 3, 2))
    values[1] = 0.25
    whole = FingerprintPrimes(symbols, n_features, pairs, values)
    part = FingerprintPrimes(symbols, n_features, pairs[[0, 2]], values[[0, 2]])
    assert difference(whole, whole, atoms) == 0
    assert difference(whole, part, atoms) == 0.25


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
        "x.ampdb: 5 files, about 12.3 kB",
    ]
    assert str(ImageRef("a.traj", 3)) == "a.traj, image 3"
    assert str(ImageRef("", 3)) == "image 3"
