"""How much two entries differ."""

import numpy as np
import pytest
from entry_samples import make_entries

from ampmpi.entries import Fingerprint, FingerprintPrimes
from ampmpi.entries.compare import TOLERANCE, difference, disagreement


@pytest.fixture(params=["fingerprint", "primes"])
def entry(request):
    return make_entries(1, 5, {"Cu": 4, "H": 2})[request.param == "primes"]


def changed(entry, by):
    """Return an entry whose largest value differs by a share of it."""
    values = entry.values.copy()
    values.flat[np.abs(values).argmax()] *= 1 + by
    fields = {name: getattr(entry, name) for name in entry.__dataclass_fields__}
    return type(entry)(**fields | {"values": values})


def test_an_entry_agrees_with_itself(entry):
    assert difference(entry, entry) == 0.0
    assert disagreement(entry, entry) is None


@pytest.mark.parametrize("by", [1e-3, -1e-3, 1e-6, 1e-10])
def test_the_difference_is_relative_to_the_largest_value(entry, by):
    for scale in (1.0, 1e-12, 1e12):
        fields = {name: getattr(entry, name) for name in entry.__dataclass_fields__}
        scaled = type(entry)(**fields | {"values": entry.values * scale})
        one, other = scaled, changed(scaled, by)
        assert difference(one, other) == pytest.approx(abs(by), rel=2e-3)
        assert difference(one, other) == difference(other, one)
        assert (disagreement(one, other) is None) == (abs(by) <= TOLERANCE)


def test_words_say_how_large_it_is(entry):
    assert "differs by 1.0e-03" in disagreement(entry, changed(entry, 1e-3))


def test_another_shape_is_no_matter_of_numbers(entry):
    fingerprint, primes = make_entries(2, 5, {"Cu": 4, "H": 2}, symbols=entry.symbols)
    other = make_entries(1, 6, {"Cu": 4, "H": 2})
    wide = make_entries(1, 5, {"Cu": 5, "H": 2}, symbols=entry.symbols)
    wrong = [*other, *wide, primes if isinstance(entry, Fingerprint) else fingerprint]
    for each in wrong:
        assert difference(entry, each) == difference(each, entry) == np.inf
        assert "other atoms or numbers of features" in disagreement(entry, each)


def test_pairs_that_one_of_two_lacks_are_zeros_there():
    _, primes = make_entries(3, 4, {"H": 2})
    number = int(np.flatnonzero(primes.pairs[:, 0] != primes.pairs[:, 1])[0])
    values = primes.values.copy()
    values[number] = 0.0
    zeros = FingerprintPrimes(primes.symbols, primes.n_features, primes.pairs, values)
    keep = np.arange(len(values)) != number
    lacking = FingerprintPrimes(
        primes.symbols, primes.n_features, primes.pairs[keep], primes.values[keep]
    )
    assert difference(zeros, lacking) == difference(lacking, zeros) == 0.0
    scale = np.abs(primes.values).max()
    expected = np.abs(primes.values[number]).max() / scale
    assert difference(primes, lacking) == difference(lacking, primes) == expected > 0


def test_nothing_but_zeros():
    entry = Fingerprint(("H",), {"H": 2}, np.zeros((1, 2)))
    none = Fingerprint(("H",), {"H": 0}, np.zeros((1, 0)))
    assert difference(entry, entry) == difference(none, none) == 0.0
