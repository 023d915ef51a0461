"""Hashes, fingerprints and primes equal what Amp computed (tests/interop/make_golden.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from ampmpi import Gaussian, hash_image
from ampmpi.entries.codec import decode, encode

DATA = Path(__file__).resolve().parents[1] / "data"
REFERENCE = json.loads((DATA / "amp-reference.json").read_text())
ARRAYS = np.load(DATA / "amp-reference.npz")
CASES = sorted({name.rsplit("/", 1)[0] for name in ARRAYS.files})


def image(name: str) -> Atoms:
    row = dict(REFERENCE["images"][name])
    del row["hash"]
    return Atoms(**row)


def assert_close(found, expected, tolerance):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", list(REFERENCE["images"]))
def test_hash(name):
    assert hash_image(image(name)) == REFERENCE["images"][name]["hash"]


@pytest.mark.parametrize("case", CASES)
def test_values(case):
    settings, name = case.rsplit("/", 1)
    settings = REFERENCE["descriptors"][settings]
    gaussian = Gaussian(**settings)
    fingerprint, primes = gaussian.calculate(image(name))

    assert decode(encode(fingerprint)) == fingerprint
    assert decode(encode(primes)) == primes

    for entry in (fingerprint, gaussian.fingerprint(image(name))):
        values = np.concatenate([row for _, row in entry.to_amp()])
        assert_close(values, ARRAYS[f"{case}/fingerprint"], 1e-12)

    mine = {(m, n, d): row for (m, _, n, _, d), row in primes.to_amp().items()}
    keys = list(map(tuple, ARRAYS[f"{case}/keys"].tolist()))
    assert set(mine) == set(keys)
    assert_close(np.concatenate([mine[key] for key in keys]), ARRAYS[f"{case}/primes"], 1e-11)
