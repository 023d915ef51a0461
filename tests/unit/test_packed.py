"""Packed derivatives: the same as those that they were made of, in less space."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from model_samples import random_sample

from ampmpi import Gaussian
from ampmpi.entries import FingerprintPrimes, forces_of
from ampmpi.model.batch import make_batch
from ampmpi.model.contraction import contract
from ampmpi.model.packed import join, pack


def crystal(seed, symbols="CuPtOCuPtCu"):
    rng = np.random.default_rng(seed)
    n = len(Atoms(symbols))
    return Atoms(symbols, scaled_positions=rng.uniform(size=(n, 3)), cell=[6, 5.5, 7], pbc=True)


@pytest.fixture(scope="module")
def images():
    descriptor = Gaussian(cutoff=3.5, elements=["Cu", "O", "Pt"])
    found = [descriptor.calculate(crystal(seed)) for seed in range(3)]
    return [*found, descriptor.calculate(crystal(4, "Cu3")), descriptor.calculate(Atoms("O"))]


def by_pair(pairs, values):
    return {tuple(pair): block for pair, block in zip(pairs.tolist(), values, strict=True)}


def unpacked(packed):
    pairs = np.stack([packed.moved, packed.centres], axis=1)
    return by_pair(pairs, packed[np.arange(len(pairs))])


def test_no_value_is_lost(images):
    for _, primes in images:
        packed = pack(primes)
        assert packed.shape == primes.values.shape
        here, there = unpacked(packed), by_pair(primes.pairs, primes.values)
        assert here.keys() == there.keys()
        assert all(np.array_equal(here[pair], there[pair]) for pair in there)
        some = np.array([3, 0, 3]) % len(packed.moved)
        assert np.array_equal(packed[some], packed[np.arange(len(packed.moved))][some])


def test_only_features_of_the_element_that_is_moved_are_kept(images):
    """Of the 36 functions of three elements, 4 G2 and 4 · 3 G4 know each of them."""
    descriptor = Gaussian(cutoff=3.5, elements=["Cu", "O", "Pt"])
    assert set(descriptor.n_features.values()) == {36}
    packed = pack(images[0][1])
    widths = np.diff(packed.column_start)[packed.kinds]
    alone = packed.moved[packed.run_start[:-1]] == packed.centres[packed.run_start[:-1]]
    assert 0 < widths[~alone].max() <= 16
    assert 16 < widths[alone].max() <= 36
    assert packed.values.size < 0.55 * images[0][1].values.size


def test_pairs_of_a_run_have_one_centre_and_one_element(images):
    symbols = np.array(images[0][1].symbols)
    packed = pack(images[0][1])
    for start, stop in zip(packed.run_start[:-1], packed.run_start[1:], strict=True):
        assert len(set(packed.centres[start:stop])) == 1
        assert len(set(symbols[packed.moved[start:stop]])) == 1


def test_joined_images_keep_their_values_in_their_rows(images):
    packed = [pack(primes) for _, primes in images]
    starts = np.cumsum([0] + [len(primes.symbols) for _, primes in images])
    rows = np.random.default_rng(0).permutation(starts[-1])
    joined = join(packed, np.split(rows, starts[1:-1]))
    found = unpacked(joined)
    assert len(joined.column_start) < sum(len(one.column_start) for one in packed)
    assert joined.image_start[-1] == len(joined.kinds) == len(joined.run_start) - 1
    total = 0
    for (_, primes), start in zip(images, starts, strict=False):
        width = primes.values.shape[2]
        for (m, n), block in by_pair(primes.pairs, primes.values).items():
            there = found[rows[start + m], rows[start + n]]
            assert np.array_equal(there[:, :width], block)
            assert not there[:, width:].any()
            total += 1
    assert len(found) == total


def test_pairs_in_any_order_can_be_packed():
    sample = random_sample(1, 5)
    order = np.random.default_rng(0).permutation(len(sample.primes.pairs))
    primes = sample.primes
    mixed = FingerprintPrimes(
        primes.symbols, primes.n_features, primes.pairs[order], primes.values[order]
    )
    here, there = unpacked(pack(mixed)), by_pair(primes.pairs, primes.values)
    assert all(np.array_equal(here[pair], there[pair]) for pair in there)


def test_derivatives_that_are_all_zero_take_no_space():
    primes = FingerprintPrimes(("H",), {"H": 2}, np.zeros((1, 2), np.int32), np.zeros((1, 3, 2)))
    packed = pack(primes)
    assert packed.values.size == 0
    assert not packed[np.array([0])].any()
    joined = join([packed, packed], [np.array([1]), np.array([0])])
    assert joined.moved.tolist() == [1, 0]


def test_forces_and_what_they_send_back_are_those_of_all_columns():
    """Against sums over all pairs and columns, to 1e-12."""
    samples = [random_sample(seed, n) for seed, n in enumerate([5, 1, 4])]
    batch, rng = make_batch(samples), np.random.default_rng(7)
    primes, n = batch.primes, len(batch.image)
    dE_dG, weight = rng.normal(size=(n, primes.width)), rng.uniform(0.1, 2.0, n)
    residuals, back = contract(primes, dE_dG, batch.forces, weight)

    pairs = np.stack([primes.moved, primes.centres], axis=1)
    full = primes[np.arange(len(pairs))]
    whole = FingerprintPrimes(("Cu",) * n, {"Cu": primes.width}, pairs, full)
    errors = forces_of(whole, dE_dG) - batch.forces
    np.testing.assert_allclose(residuals, errors, rtol=1e-12, atol=1e-12)
    sent = np.zeros_like(back)
    for (m, c), block in zip(pairs, full, strict=True):
        sent[c] -= weight[m] * errors[m] @ block
    np.testing.assert_allclose(back, sent, rtol=1e-12, atol=1e-12)
