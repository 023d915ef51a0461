"""A training on the example's images: errors on images it has not seen, and energy kept in NVE."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "accuracy.py"


@pytest.fixture(scope="module")
def benchmark():
    return SimpleNamespace(**runpy.run_path(str(BENCHMARK)))


@pytest.fixture(scope="module")
def trained(benchmark, tmp_path_factory):
    return benchmark.train(benchmark.images(60, 100, seed=0), tmp_path_factory.mktemp("training"))


def test_held_out_images_are_predicted_accurately(benchmark, trained):
    calculator, result = trained
    assert result.outcome == "converged"
    held_out = benchmark.images(100, 200, seed=200)
    forces = np.concatenate([atoms.get_forces().ravel() for atoms in held_out])
    assert np.sqrt(np.mean(forces**2)) > 1.0
    energy, force = benchmark.errors(calculator, held_out)
    assert energy <= benchmark.ENERGY_TARGET
    assert force <= benchmark.FORCE_TARGET


def test_total_energy_is_kept_for_five_picoseconds(benchmark, trained):
    kept = benchmark.conservation(trained[0], picoseconds=5.0)
    assert 200.0 < kept.temperature < 400.0
    assert kept.drift < benchmark.DRIFT_TARGET
    assert kept.deviation < benchmark.DRIFT_TARGET
    # the run stayed where the potential was trained
    assert kept.force_error < benchmark.FORCE_TARGET
