"""Keys as text, as bytes, and as arrays."""

import numpy as np
import pytest
from entry_samples import make_key

from ampmpi import keys
from ampmpi.keys import DIGEST, digests_of, distinct, is_key, member_of, to_hex, union


def some(count, seed=0):
    """Return so many keys as sorted 16-byte strings, some of which end in zeros."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (count, 16), np.uint8)
    rows[::5, -3:] = 0
    return np.sort(rows.view(DIGEST).ravel())


def test_what_is_a_key():
    assert is_key(make_key(0)) and is_key("0" * 32)
    wrong = ["", "0" * 31, "0" * 33, "A" * 32, "g" * 32, make_key(0) + "\n", "٠" * 32]
    for name in (*wrong, None, 3, make_key(0).encode()):
        assert not is_key(name)


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_there_and_back(count):
    texts = sorted([make_key(number) for number in range(count)] + ["0" * 32, "f" * 30 + "00"])
    assert to_hex(digests_of(texts)) == texts
    assert digests_of(texts).dtype == DIGEST
    assert to_hex(np.sort(digests_of(texts[::-1]))) == texts


def test_distinct():
    for digests in (some(0), some(1), some(100), np.repeat(some(100), 3)):
        assert to_hex(distinct(digests)) == sorted(set(to_hex(digests)))


def test_member_of(monkeypatch):
    digests, others = some(500), some(500)[::3]
    expected = [key in set(to_hex(others)) for key in to_hex(digests)]
    assert 0 < sum(expected) < 500
    for rows in (1 << 16, 7):
        monkeypatch.setattr(keys, "_ROWS", rows)
        assert member_of(digests, others).tolist() == expected
        assert member_of(digests[::-1], others).tolist() == expected[::-1]
        assert not member_of(digests, some(0)).any()
        assert len(member_of(some(0), others)) == 0
        assert not member_of(some(300, seed=1), others).any()


def test_union_is_sorted_and_has_each_once():
    keys = [f"{number:032x}" for number in (7, 1, 1 << 120, 3)]
    joined = union(digests_of(keys[:3]), digests_of([]), digests_of(keys[1:]))
    assert to_hex(joined) == sorted(keys)
    assert to_hex(union()) == []
