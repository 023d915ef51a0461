"""What others computed and wrote is what we compute and read.

Hashes, fingerprints and primes are Amp's (tests/interop/make_golden.py). The
databases are Amp's (tests/data/make_golden.py) and, of the same entries, those
of ampmpi 0.1.0; of the archived ones it had deleted an entry, by a mark that
nobody looks at any more.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from ampmpi import FingerprintDatabase, Gaussian, hash_image
from ampmpi.database.check import check
from ampmpi.entries import Fingerprint
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


DATABASES = sorted(DATA.glob("*/*-fingerprint*.ampdb"))


def plain(entry):
    """Return an entry as `expected.json` has it."""
    if isinstance(entry, Fingerprint):
        return [[symbol, values] for symbol, values in entry.to_amp()]
    return sorted([list(key), values] for key, values in entry.to_amp().items())


def expected_in(path):
    """Return what a golden database holds: 0.1 had its keys apart, for all of its databases."""
    return json.loads((path.parent / "expected.json").read_text())[path.stem.split("-", 1)[1]]


def test_databases_are_there():
    names = {path.stem.split("-", 1)[0] for path in DATABASES if path.parent.name == "ampmpi-0.1"}
    assert names == {"loose", "archived", "mixed"} and len(DATABASES) == 10


@pytest.mark.parametrize("path", DATABASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_databases_of_others_open_and_compress(path, tmp_path):
    copy = tmp_path / path.name
    shutil.copytree(path, copy)
    (copy / "loose").mkdir(exist_ok=True)  # git keeps no empty folder
    kind = path.stem.split("-", 1)[1]
    expected = expected_in(path)
    assert len(expected) == 3
    with FingerprintDatabase(copy) as database:
        assert database.kind == ("primes" if "primes" in kind else "fingerprints")
        for _ in range(2):
            assert {key: plain(entry) for key, entry in database.items()} == expected
            assert {key: plain(entry) for key, entry in database.get_many()} == expected
            assert database.missing(expected, check=True) == set()
            assert check(copy).exit_code == 0
            report = database.compress()
            assert report.entries == 3 and report.remarks() == []
        info = database.info()
        assert (info.loose, info.archived) == (0, 3)
        manifest = database.manifest()
        if path.parent.name == "amp":
            assert manifest is None and not database.claim({}, "aa")
        else:
            assert database.claim(manifest.parameters, manifest.digest)
        for mark in (copy / "deleted").glob("*"):
            assert mark.name in database
