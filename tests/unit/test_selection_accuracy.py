"""Chosen images make a better potential than as many random ones, with few of either."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ampmpi import Gaussian, select

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "selection.py"
FIRST, ROUNDS, PER_ROUND = 20, 2, 10


def test_two_rounds_of_selection_beat_random_images(seed=0):
    benchmark = SimpleNamespace(**runpy.run_path(str(BENCHMARK)))
    pool, held_out = benchmark.pool_of(seed, n_cold=60, n_runs=1), benchmark.held_out_of(seed, 1)
    order = np.random.default_rng(seed).permutation(len(pool))
    known = [benchmark.labelled(pool[number]) for number in order[:FIRST]]
    more = [benchmark.labelled(pool[number]) for number in order[FIRST:]]
    descriptor = Gaussian.from_images(known, per_element=16)

    def trained(images):
        return benchmark.train(images, descriptor, seed, n_members=3, max_steps=250)

    by_chance = trained(known + more[: ROUNDS * PER_ROUND])
    committee = trained(known)
    for _ in range(ROUNDS):
        found = select(committee, pool, PER_ROUND, known=known)
        assert len(found.images) == PER_ROUND
        known = known + [benchmark.labelled(image) for image in found.images]
        committee = trained(known)
    random, chosen = (benchmark.errors(one, held_out) for one in (by_chance, committee))
    assert chosen.force < 0.8 * random.force
    assert chosen.worst < 0.8 * random.worst
