"""Each reads the databases that the other wrote, loose and archived."""

from __future__ import annotations

from pathlib import Path

import pytest
from amp_form import amp_form, received
from systems import descriptors, images

from ampmpi import FingerprintDatabase, Gaussian, fingerprint, hash_image
from ampmpi.database.compress import compress

SETTINGS = descriptors()["unequal"]
KINDS = ("fingerprints", "fingerprint-primes")


@pytest.fixture
def gaussian():
    return Gaussian(**SETTINGS)


@pytest.fixture
def computed(gaussian):
    """Return, for each kind, each image's hash and entry."""
    both = {hash_image(atoms): gaussian.calculate(atoms) for atoms in images().values()}
    return {
        "fingerprints": {key: entries[0] for key, entries in both.items()},
        "fingerprint-primes": {key: entries[1] for key, entries in both.items()},
    }


def fill(path: Path, entries) -> Path:
    database = FingerprintDatabase(path)
    for key, entry in entries.items():
        database[key] = entry
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_amp_reads_what_we_wrote(amp, tmp_path, computed, kind):
    entries = computed[kind]
    expected = {key: amp_form(entry) for key, entry in entries.items()}
    path = fill(tmp_path / f"ours-{kind}.ampdb", entries)

    loose = amp("read", path=str(path))
    assert {key: received(rows) for key, rows in loose.items()} == expected

    compress(path)
    assert not list((path / "loose").iterdir())
    archived = amp("read", path=str(path))
    assert {key: received(rows) for key, rows in archived.items()} == expected


def test_amp_reads_after_ten_compressions(amp, tmp_path, computed):
    entries = computed["fingerprint-primes"]
    path = tmp_path / "ours-fingerprint-primes.ampdb"
    several = list(entries.items())
    for number in range(10):
        key, entry = several[number % len(several)]
        fill(path, {f"{number:032x}": entry, key: entry})
        compress(path)
    assert not list((path / "loose").iterdir())
    read = amp("read", path=str(path))
    assert set(read) == {*entries, *(f"{number:032x}" for number in range(10))}
    for key, entry in entries.items():
        assert received(read[key]) == amp_form(entry)


@pytest.mark.parametrize("kind", KINDS)
def test_amp_sees_plain_types(amp, tmp_path, computed, kind):
    path = fill(tmp_path / f"ours-{kind}.ampdb", computed[kind])
    for key in computed[kind]:
        found = set(amp("types", path=str(path), key=key))
        assert found <= {"list", "tuple", "dict", "str", "int", "float"}


@pytest.mark.parametrize("archive", [False, True], ids=["loose", "archived"])
def test_we_read_what_amp_wrote(amp, tmp_path, archive):
    answer = amp(
        "write",
        list(images().values()),
        descriptor=SETTINGS,
        dblabel=str(tmp_path / "amps"),
        derivatives=True,
        archive=archive,
    )
    for kind in KINDS:
        path = tmp_path / f"amps-{kind}.ampdb"
        database = FingerprintDatabase(path)
        expected = {key: received(rows) for key, rows in answer[kind].items()}
        assert set(database) == set(expected)
        assert {key: amp_form(database[key]) for key in database} == expected
        assert {key: amp_form(entry) for key, entry in database.get_many(expected)} == expected
        assert database.missing(expected) == set()


def test_we_compress_what_amp_wrote_and_amp_reads_on(amp, tmp_path):
    answer = amp(
        "write",
        list(images().values()),
        descriptor=SETTINGS,
        dblabel=str(tmp_path / "amps"),
        derivatives=True,
        archive=True,
    )
    for kind in KINDS:
        path = tmp_path / f"amps-{kind}.ampdb"
        one, other = list(answer[kind])[:2]
        added = "0" * 31 + "1"
        amp("add", path=str(path), key=added, source=one)
        compress(path)
        read = amp("read", path=str(path))
        assert read == {**answer[kind], added: answer[kind][one]}
        database = FingerprintDatabase(path)
        assert amp_form(database[added]) == received(answer[kind][one])
        assert amp_form(database[other]) == received(answer[kind][other])


def test_neighbor_lists_are_archived_as_they_are(amp, tmp_path):
    amp(
        "write",
        list(images().values()),
        descriptor=SETTINGS,
        dblabel=str(tmp_path / "amps"),
        derivatives=False,
    )
    path = tmp_path / "amps-neighborlists.ampdb"
    before = amp("texts", path=str(path))
    assert len(before) == len(images())
    compress(path)
    assert not list((path / "loose").iterdir())
    assert amp("texts", path=str(path)) == before


def test_amp_archives_what_we_compressed(amp, tmp_path, computed):
    entries = computed["fingerprints"]
    path = fill(tmp_path / "ours-fingerprints.ampdb", entries)
    compress(path)
    added = "0" * 31 + "1"
    amp("add", path=str(path), key=added, source=next(iter(entries)))
    amp("archive", path=str(path))
    database = FingerprintDatabase(path)
    assert set(database) == {*entries, added}
    for key, entry in entries.items():
        assert amp_form(database[key]) == amp_form(entry)


def test_the_job_adopts_a_database_of_amp(amp, tmp_path, monkeypatch):
    """What Amp computed is used; only what it lacks is computed."""
    monkeypatch.chdir(tmp_path)
    atoms = list(images().values())
    amp(
        "write",
        atoms[:5],
        descriptor=SETTINGS,
        dblabel=str(tmp_path / "shared"),
        derivatives=True,
    )
    summary = fingerprint(atoms, Gaussian(**SETTINGS), label="shared", derivatives=True)
    assert summary.computed == len(atoms) - 5
    database = FingerprintDatabase("shared-fingerprints.ampdb")
    assert set(database) == {hash_image(image) for image in atoms}
