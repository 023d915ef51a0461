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
    copy=1e-4, append=2e-3, assemble=5e-4, entry_books=1e-6, pack_books=1e-4,
)  # fmt: skip
FAST = scaling.FileSystem("fast", 0.0, 1e-9, 4, 1e15)


def simulate(n_ranks: int, n_images: int, **settings: float) -> dict[str, float]:
    return scaling.simulate(n_ranks, n_images, COSTS, replace(FAST, **settings))


def packs(n_ranks: int, n_images: int, assembly: str, **settings: float) -> dict[str, float]:
    way = next(way for way in scaling.ASSEMBLIES if way.name == assembly)
    job = (n_ranks, n_images)
    files = replace(FAST, **settings)
    phases, number = scaling.simulate_packs(*job, COSTS, files)
    return phases | scaling.simulate_assembly(*job, number, COSTS, files, way)


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


def test_packs_on_a_file_system_that_costs_nothing_take_only_time_of_the_ranks():
    phases = packs(16, 10_000, "shared")
    computed = phases["compute"] + phases["deflate"]
    assert computed == pytest.approx(10_000 * (3e-3 + 2e-3) / 16, rel=0.05)
    tasks = 32 + 64  # one a pack at least, and four a rank
    books = 20_000 * 1e-6 + 32 * 1e-4 + 2 * tasks * scaling.MESSAGE
    copied = 10_000 * 5e-4 / 16
    assert phases["copy"] == pytest.approx(copied)
    whole = sum(phases.values()) - phases["start"] - phases["read, hash"] - phases["rank 0"]
    assert whole == pytest.approx(computed + copied + books, rel=0.05)


def test_bytes_of_packs_cross_the_line_as_often_as_they_are_read_and_written():
    once = 10_000 * 0.35e6 / 1e9
    for assembly, times in [("shared", 4), ("own", 3), ("trusting", 2), ("in-place", 1.1)]:
        phases = packs(1024, 10_000, assembly, bandwidth=1e9)
        moved = phases["compute"] + phases["copy"] + phases["read back"]
        assert moved == pytest.approx(times * once, rel=0.02), assembly
    assert "copy" not in packs(1024, 10_000, "left", bandwidth=1e9)


def test_packs_that_no_longer_fit_into_memory_are_read_again():
    n_images = 1_000_000  # 350 GB on one node
    once = n_images * 0.35e6 / 1e9
    phases = packs(16, n_images, "own", bandwidth=1e9)
    assert phases["copy"] == pytest.approx(2 * once - scaling.CACHE / 1e9)


def test_what_rank_0_asks_alone_of_the_file_system_takes_its_time():
    serial = packs(1024, 10_000, "serial", latency=1e-3)
    shared = packs(1024, 10_000, "shared", latency=1e-3)
    assert serial["indexes"] == pytest.approx(2 * 1024 * 2 * 1e-3, rel=1e-3)
    assert serial["unlink"] == pytest.approx(2 * 1024 * 2 * 1e-3, rel=1e-3)
    assert shared["unlink"] == pytest.approx(2 * 2 * 1e-3, rel=1e-3)


def test_a_cell_says_how_far_a_job_is_above_the_limit_and_why():
    files = replace(FAST, bandwidth=1e9)
    cell = scaling.cells_of(1024, 10_000, COSTS, files)["serial"]
    limit = 1.0 + 16 * 6000 * 1e-9 / 4 + 10_000 * 0.35e6 / 1e9
    assert cell.ratio == pytest.approx(cell.packs / limit, rel=1e-3)
    assert str(cell).endswith(f"{cell.ratio:.1f} copy")
    cheap = replace(COSTS, append=1e-4, assemble=1e-4)
    fast = scaling.cells_of(16, 10_000, cheap, FAST)["serial"]
    assert fast.ratio < scaling.BOUND
    assert str(fast).endswith(f"{fast.ratio:.1f}")
