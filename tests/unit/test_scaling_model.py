"""The model of `benchmarks/scaling.py` keeps the limits that can be worked out by hand."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "scaling.py"
spec = importlib.util.spec_from_file_location("scaling", FILE)
assert spec is not None
assert spec.loader is not None
scaling = sys.modules["scaling"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scaling)

COSTS = scaling.Costs(
    entries=2, compute=3e-3, read=1e-5, digest=1e-5, book=1e-6, list_one=1e-6, imports=1.0,
    opens=6000, entry_bytes=0.62e6, archive_bytes=0.35e6, deflate=2e-3, inflate=1e-3,
    copy=1e-4,
)  # fmt: skip
FAST = scaling.FileSystem("fast", 0.0, 1e-9, 4, 1e15)


def simulate(n_ranks: int, n_images: int, **settings: float) -> dict[str, float]:
    return scaling.simulate(n_ranks, n_images, COSTS, replace(FAST, **settings))


def job(phases: dict[str, float]) -> float:
    names = ("compute", "metadata", "bandwidth", "uneven")
    return sum(phases[name] for name in names)


def test_a_file_system_that_costs_nothing():
    phases = simulate(16, 10_000)
    assert phases["compute"] == pytest.approx(10_000 * 3e-3 / 16, rel=0.05)
    assert job(phases) == pytest.approx(phases["compute"], rel=0.05)


@pytest.mark.parametrize("n_ranks", [16, 1024])
def test_bytes_take_their_time(n_ranks):
    moved = 10_000 * 0.62e6 / 1e9
    assert moved <= job(simulate(n_ranks, 10_000, bandwidth=1e9)) <= 1.1 * moved + 0.1


def test_metadata_take_their_time():
    served = 10_000 * 6 * 1e-3 / 4  # two files an image, three operations a file
    phases = simulate(1024, 10_000, service=1e-3)
    assert served <= job(phases) <= 1.1 * served + 0.1
    assert phases["metadata"] > phases["bandwidth"]


def test_a_compress_sees_eight_operations_an_image():
    phases = simulate(1024, 10_000, service=1.0)
    assert phases["compress"] >= 10_000 * 8 * 1.0 / 4


def test_entries_that_are_there_are_listed_and_read_back():
    phases = simulate(16, 10_000, bandwidth=1e9)
    assert phases["again"] == pytest.approx(2 * 10_000 * 1e-6 + 6.2, rel=0.01)
