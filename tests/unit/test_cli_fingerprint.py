"""The command line of the main job, in one process."""

from __future__ import annotations

import errno
import os
import tempfile

import pytest
from ase import Atoms
from ase.build import bulk
from ase.db import connect
from ase.io import write
from click.testing import CliRunner

from ampmpi import fingerprint
from ampmpi.cli.fingerprint import command
from ampmpi.cli.group import COMMANDS, group
from ampmpi.database import FingerprintDatabase
from ampmpi.errors import DatabaseError, DescriptorError, ImageError, InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = [bulk("Cu", a=3.6 + 0.01 * number) for number in range(5)]
    write("a.traj", [*images, images[1]])
    return tmp_path


def test_entries_are_made_and_found_again(folder):
    result = CliRunner().invoke(command, ["a.traj", "--label", "x", "--cutoff", "4"])
    assert result.exception is None
    assert "a.traj, image 1 comes 2 times" in result.output
    assert "6 images, 1 duplicates, 0 found, 5 computed, 0 failed" in result.output
    again = CliRunner().invoke(command, ["a.traj@:3", "--label", "x", "--cutoff", "4"])
    assert "3 images, 0 duplicates, 3 found, 0 computed, 0 failed" in again.output
    with FingerprintDatabase("x-fingerprints.ampdb") as database:
        assert len(database) == 5
        assert database.info().loose == 0


def test_a_ghost_atom_costs_its_own_image_only(folder):
    images = [bulk("Cu", a=3.6), Atoms("CuX", [[0, 0, 0], [0, 0, 2]])]
    summary = fingerprint(images, label="x")
    assert [failed.image.index for failed in summary.failed] == [1]
    assert "(X)" in summary.failed[0].reason
    assert summary.computed == 1
    for nothing in (Atoms("X"), Atoms()):
        with pytest.raises(InputError, match="no image holds an atom of an element"):
            fingerprint([nothing], label="y")


def test_an_ase_database_is_given_by_its_name(folder):
    with connect("images.db") as database:
        database.write(bulk("Cu", a=3.6))
        with pytest.raises(InputError, match="ASE database: give the name of its file"):
            fingerprint(database, label="x")
    assert fingerprint("images.db", label="x").computed == 1


def test_loose_entries_stay_where_that_is_wanted(folder):
    CliRunner().invoke(command, ["a.traj", "--label", "x", "--cutoff", "4", "--no-compress"])
    CliRunner().invoke(command, ["a.traj", "--label", "y", "--cutoff", "4", "--dblabel", "z"])
    for name in ("x", "z"):
        with FingerprintDatabase(f"{name}-fingerprints.ampdb") as database:
            assert database.info().loose == 5
    assert not (folder / "y-fingerprints.ampdb").exists()


def test_quiet_says_nothing(folder):
    result = CliRunner().invoke(command, ["a.traj", "--label", "x", "--cutoff", "4", "-q"])
    assert (result.exception, result.output) == (None, "")


def test_descriptor_from_a_file(folder):
    (folder / "d.toml").write_text("cutoff = 4.0\n")
    result = CliRunner().invoke(command, ["a.traj", "--label", "x", "--descriptor", "d.toml"])
    assert result.exception is None
    other = CliRunner().invoke(
        command, ["a.traj", "--label", "x", "--descriptor", "d.toml", "--cutoff", "3"]
    )
    assert isinstance(other.exception, InputError)
    (folder / "d.toml").write_text("cutof = 4.0\n")
    wrong = CliRunner().invoke(command, ["a.traj", "--label", "x", "--descriptor", "d.toml"])
    assert isinstance(wrong.exception, DescriptorError)


def test_a_database_that_cannot_be_made_is_told_before_images_are_read(folder):
    (folder / "file").touch()
    for name in ("missing", "file"):
        with pytest.raises(DatabaseError, match=f"no folder {folder}/{name}: make it first"):
            fingerprint("no such images", label=folder / name / "x")
    with pytest.raises(InputError, match="no such images"):
        fingerprint("no such images", label="x")
    assert not list(folder.glob("*.ampdb"))


@pytest.mark.parametrize("exists", [False, True])
def test_a_read_only_place_is_told_before_images_are_read(folder, monkeypatch, exists):
    def refuse(*_: object, **__: object) -> str:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    if exists:
        FingerprintDatabase.create("x-fingerprints.ampdb")
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(DatabaseError, match="read-only: choose another place for the database"):
        fingerprint("no such images", label="x")
    fingerprint("a.traj", label="y", dry_run=True)  # writes nothing


def test_images_that_failed_are_listed(folder):
    images = [bulk("Cu", cubic=True) for _ in range(3)]
    images[1].positions[2] = images[1].positions[3]
    write("b.traj", images)
    result = CliRunner().invoke(command, ["b.traj", "--label", "x", "--cutoff", "4"])
    assert isinstance(result.exception, ImageError)
    assert "b.traj, image 1: atoms 2 (Cu) and 3 (Cu) overlap" in str(result.exception)
    assert "1 computed, 1 failed" in result.output


def test_help_lists_every_command_without_importing_it():
    result = CliRunner().invoke(group, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"  {name} " in result.output
    assert "75 stopped early" in result.output


def test_unknown_command_is_refused():
    result = CliRunner().invoke(group, ["fingerprints"])
    assert result.exit_code == 2
    assert "No such command 'fingerprints'" in result.output
