"""What is said of packs by the commands that say what a database holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner
from entry_samples import make_entries, make_key

from ampmpi import FingerprintDatabase
from ampmpi.cli import compress, info


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "a-fingerprints.ampdb"
    with FingerprintDatabase(name) as database:
        for number in range(3):
            database[make_key(number)] = make_entries(number, 2, {"Cu": 3})[0]
    return name


@pytest.fixture
def packed(path, monkeypatch):
    """The database as if it had two packs, one of them unfinished, and three more entries."""
    real = FingerprintDatabase.info
    more = {"packed": 4, "bytes_packs": 5000, "packs": 2, "open_packs": 1}

    def with_packs(database):
        found = real(database)
        return replace(found, entries=6 + found.archived, **more)

    monkeypatch.setattr(FingerprintDatabase, "info", with_packs)
    return path


def said(command, *arguments):
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def rows(path):
    return dict(line.split(maxsplit=1) for line in said(info.command, path).splitlines()[1:])


def test_info_without_packs_does_not_speak_of_them(path):
    found = rows(path)
    assert found["entries"] == "3 (3 loose, 0 archived)"
    assert found["size"].endswith(" loose, 0 bytes archive")
    assert "packs" not in found


def test_info_says_what_is_in_packs_and_when_amp_sees_it(packed):
    found = rows(packed)
    assert found["entries"] == "6 (3 loose, 4 in packs, 0 archived)"
    assert found["size"].endswith(" loose, 5 kB packs, 0 bytes archive")
    assert found["packs"] == "2 (1 still open); Amp sees what is in them after the next compress"


def test_a_dry_compress_counts_entries_in_packs_once(packed):
    line = said(compress.command, "--dry-run", packed)
    assert f"{packed}: 6 entries would go into the archive (3 loose, " in line
    assert "; 4 in 2 packs, 5 kB; 0 archived, 0 bytes)" in line
    assert "6 entries would be deleted" in said(compress.command, "-r", "-d", "--dry-run", ".")


def test_a_dry_compress_without_packs_does_not_speak_of_them(path):
    line = said(compress.command, "--dry-run", path)
    assert "3 entries would go into the archive (3 loose, " in line
    assert "pack" not in line


@pytest.mark.parametrize("chosen", [("-r", "."), ("--label", "b")])
def test_a_database_of_packs_alone_is_one_to_compress(tmp_path, monkeypatch, chosen):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b-fingerprints.ampdb" / "packs").mkdir(parents=True)
    line = said(compress.command, "--dry-run", *chosen)
    assert "b-fingerprints.ampdb: 0 entries would go into the archive" in line
