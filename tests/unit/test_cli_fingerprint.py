"""The command line of the main job, in one process."""

from __future__ import annotations

import errno
import os

import pytest
from ase import Atoms
from ase.build import bulk
from ase.db import connect
from ase.io import read, write
from click.testing import CliRunner

from ampmpi import Gaussian, fingerprint, hash_image
from ampmpi.cli.fingerprint import command
from ampmpi.cli.group import COMMANDS, group
from ampmpi.database import FingerprintDatabase
from ampmpi.database.layout import Home
from ampmpi.database.lock import Lock
from ampmpi.database.packs import PackLimits
from ampmpi.errors import (
    DatabaseError,
    DescriptorError,
    DescriptorMismatchError,
    ImageError,
    InputError,
)
from ampmpi.fingerprinting.suspects import InFlight


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
    assert "atom 1 has the atomic number 0, which is no element" in summary.failed[0].reason
    assert summary.computed == 1
    for nothing, reason in ((Atoms("X"), "atomic number 0"), (Atoms(), "has no atoms")):
        with pytest.raises(ImageError, match=f"none of .*, the first: image 0: .*{reason}"):
            fingerprint([nothing], label="y")
    strange = Atoms("Cu")
    strange.numbers[0] = 200
    write("strange.traj", [strange, bulk("Cu", a=3.6)])
    result = CliRunner().invoke(command, ["strange.traj", "--label", "z"])
    assert "strange.traj, image 0: atom 0 has the atomic number 200" in str(result.exception)
    assert "2 images, 0 duplicates, 0 found, 1 computed, 1 failed" in result.output


ETAS = """
cutoff = 4.0
[[Gs.Cu]]
type = "G2"
element = "Cu"
eta = 0.05
[[Gs.Pt]]
type = "G2"
element = "Cu"
eta = {}
"""


def test_a_database_is_adopted_for_elements_that_were_compared_only(folder):
    write("mixed.traj", [molecule_of("CuPt", 2.4 + 0.1 * number) for number in range(3)])
    (folder / "a.toml").write_text(ETAS.format(0.05))
    (folder / "b.toml").write_text(ETAS.format(5.0))
    images = ["a.traj", "mixed.traj"]
    made = CliRunner().invoke(command, [*images, "--label", "x", "--descriptor", "a.toml"])
    assert made.exception is None
    (folder / "x-fingerprints.ampdb/descriptor.json").unlink()
    write("more.traj", [bulk("Cu", a=3.6 + 0.01 * number) for number in range(12)])
    refused = CliRunner().invoke(command, ["a.traj", "--label", "x", "--descriptor", "b.toml"])
    assert "of the job's images can be compared with it, where 8" in str(refused.exception)
    CliRunner().invoke(command, ["more.traj", "--label", "x", "--descriptor", "a.toml", "--adopt"])
    (folder / "x-fingerprints.ampdb/descriptor.json").unlink()
    refused = CliRunner().invoke(command, ["more.traj", "--label", "x", "--descriptor", "b.toml"])
    assert "holds Pt, which no image compared with it does" in str(refused.exception)
    assert not (folder / "x-fingerprints.ampdb/descriptor.json").exists()
    every = ["more.traj", "mixed.traj", "--label", "x"]
    other = CliRunner().invoke(command, [*every, "--descriptor", "b.toml"])
    assert isinstance(other.exception, DescriptorMismatchError)
    taken = CliRunner().invoke(command, [*every, "--descriptor", "a.toml"])
    assert taken.exception is None, taken.exception


def molecule_of(symbols, distance):
    return Atoms(symbols, [[0, 0, 0], [0, 0, distance]])


def test_damaged_entries_do_not_count_for_an_adoption(folder):
    write("more.traj", [bulk("Cu", a=3.6 + 0.01 * number) for number in range(12)])
    common = ["--label", "x", "--no-compress"]
    CliRunner().invoke(command, ["more.traj", *common, "--cutoff", "4"])
    (folder / "x-fingerprints.ampdb/descriptor.json").unlink()
    for image in read("more.traj", ":10"):
        path = folder / "x-fingerprints.ampdb/loose" / hash_image(image)
        path.write_bytes(path.read_bytes()[:100])
    refused = CliRunner().invoke(command, ["more.traj@:10", *common, "--cutoff", "5"])
    assert "only 0 of the job's images can be compared with it" in str(refused.exception)
    other = CliRunner().invoke(command, ["more.traj", *common, "--cutoff", "5"])
    assert isinstance(other.exception, DescriptorMismatchError)
    taken = CliRunner().invoke(command, ["more.traj", *common, "--cutoff", "4"])
    assert "2 of its entries were computed again and agree" in taken.output
    assert "2 found, 10 computed" in taken.output


def test_a_database_that_another_process_compresses_stays_loose(folder):
    FingerprintDatabase.create("x-fingerprints.ampdb")
    with Lock(Home.open("x-fingerprints.ampdb")):
        result = CliRunner().invoke(command, ["a.traj", "--label", "x", "--cutoff", "4"])
    assert result.exception is None, result.exception
    assert "the entries stay where they are, as another process compresses it" in result.output
    assert "5 computed, 0 failed" in result.output
    assert len(list((folder / "x-fingerprints.ampdb/loose").iterdir())) == 5


def test_a_damaged_archive_is_told_of_even_quietly(folder):
    CliRunner().invoke(command, ["a.traj", "--label", "x", "--cutoff", "4"])
    archive = folder / "x-fingerprints.ampdb/archive.tar.gz"
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    result = CliRunner().invoke(command, ["a.traj@:2", "--label", "x", "--cutoff", "4", "-q"])
    assert result.exception is None, result.exception
    assert "warning: x-fingerprints.ampdb: the archive was damaged and is kept as" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("chosen", ["a.traj@9", "a.traj@6:"])
def test_a_choice_of_nothing_is_an_error(folder, chosen):
    result = CliRunner().invoke(command, [chosen, "a.traj", "--label", "x", "--cutoff", "4"])
    assert "a.traj: the frames given after the @ are not among its 6 frames" in str(
        result.exception
    )


@pytest.mark.parametrize("name", ["a.extxyz.gz", "a.extxyz.xz"])
def test_a_damaged_compressed_file_is_named(folder, name):
    write(name, read("a.traj", ":"), format="extxyz")
    path = folder / name
    path.write_bytes(path.read_bytes()[:30])
    result = CliRunner().invoke(command, [name, "--label", "x", "--cutoff", "4"])
    assert str(result.exception).startswith(f"{name} cannot be read")


def test_a_pipe_is_no_file_of_images(folder):
    os.mkfifo("p.traj")
    result = CliRunner().invoke(command, ["p.traj", "--label", "x", "--cutoff", "4"])
    assert str(result.exception).startswith("p.traj is not a regular file")


def test_an_empty_line_amid_the_frames_is_an_error(folder):
    write("b.extxyz", read("a.traj", ":"))
    lines = (folder / "b.extxyz").read_text().splitlines()
    (folder / "b.extxyz").write_text("\n".join([*lines, "", " ", ""]))
    good = CliRunner().invoke(command, ["b.extxyz", "--label", "x", "--cutoff", "4"])
    assert good.exception is None, good.exception
    (folder / "b.extxyz").write_text("\n".join([*lines[:6], "", *lines[6:]]))
    bad = CliRunner().invoke(command, ["b.extxyz", "--label", "x", "--cutoff", "4"])
    assert "b.extxyz, line 7 is empty, but others follow" in str(bad.exception)


def test_an_ase_database_is_given_by_its_name(folder):
    with connect("images.db") as database:
        database.write(bulk("Cu", a=3.6))
        with pytest.raises(InputError, match="ASE database: give the name of its file"):
            fingerprint(database, label="x")
    assert fingerprint("images.db", label="x").computed == 1


def test_files_are_read_in_the_units_and_the_format_that_are_given(folder):
    image = bulk("Cu", a=3.6)
    image.set_cell(image.cell / 10, scale_atoms=True)
    write("nm.dat", image, format="extxyz")
    fingerprint("nm.dat", Gaussian(cutoff=4.0), label="x", units="eV,nm", format="extxyz")
    with FingerprintDatabase("x-fingerprints.ampdb") as database:
        [key] = database
    image = read("nm.dat", format="extxyz")
    image.set_cell(image.cell * 10, scale_atoms=True)
    assert key == hash_image(image)
    for option in ("--images-format", "--format"):
        given = ["nm.dat", "--label", "x", "--cutoff", "4", "--units", "nm", option, "extxyz"]
        result = CliRunner().invoke(command, given)
        assert "1 images, 0 duplicates, 1 found, 0 computed, 0 failed" in result.output
    for wrong in ({"units": "eV,mm"}, {"format": "no format"}):
        with pytest.raises(InputError):
            fingerprint("nm.dat", label="y", **wrong)
    with pytest.raises(InputError, match="units and format are for files of images"):
        fingerprint(image, label="y", units="eV,nm")
    assert not os.path.lexists("y-fingerprints.ampdb")


def test_the_format_of_images_has_one_name_in_all_commands(folder):
    for name in ("evaluate", "fingerprint", "functions", "images", "plot", "train"):
        [option] = [
            one for one in group.get_command(None, name).params if "--images-format" in one.opts
        ]
        assert ("--format" in option.opts) == (name != "plot")
        assert option.name == "format"


def test_loose_entries_stay_where_that_is_wanted(folder):
    CliRunner().invoke(command, ["a.traj", "--label", "x", "--cutoff", "4", "--no-compress"])
    CliRunner().invoke(command, ["a.traj", "--label", "y", "--cutoff", "4", "--dblabel", "z"])
    for name in ("x", "z"):
        with FingerprintDatabase(f"{name}-fingerprints.ampdb") as database:
            assert database.info().loose == 5
    assert not (folder / "y-fingerprints.ampdb").exists()


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ((), None),
        (("--packs",), PackLimits(256 * 10**6, 300)),
        (("--packs", "--pack-size", "0.5", "--pack-seconds", "7"), PackLimits(500_000, 7)),
    ],
)
def test_packs_and_their_limits_reach_the_job(folder, monkeypatch, given, limits):
    class Seen(Exception):
        pass

    def job(comm, log, options):
        assert options.packs == limits
        raise Seen

    monkeypatch.setattr("ampmpi.fingerprinting.job._Job", job)
    result = CliRunner().invoke(command, ["a.traj", "--label", "x", *given])
    assert isinstance(result.exception, Seen), result.exception


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("--pack-size", "64"), "--pack-size needs --packs"),
        (("--pack-seconds", "300"), "--pack-seconds needs --packs"),
        (("--pack-size", "0", "--packs"), "0.0 is not in the range"),
    ],
)
def test_limits_of_packs_that_make_no_sense_are_refused(folder, given, reason):
    result = CliRunner().invoke(command, ["a.traj", "--label", "x", *given])
    assert result.exit_code == 2
    assert reason in result.output
    endless = CliRunner().invoke(command, ["a.traj", "--label", "x", "--packs", "--pack-size=inf"])
    assert isinstance(endless.exception, InputError)
    assert os.listdir() == ["a.traj"]


def test_a_dry_run_knows_of_packs(folder):
    given = ["a.traj", "--label", "x", "--cutoff", "4", "--dry-run"]
    loose = CliRunner().invoke(command, given)
    assert "x-fingerprints.ampdb: 5 files, about" in loose.output
    assert "with --packs about 1 file on 1 rank" in loose.output
    packed = CliRunner().invoke(command, [*given, "--packs", "--pack-size", "1e-6"])
    assert "x-fingerprints.ampdb: about 5 files on 1 rank, about" in packed.output
    assert "without --packs 5 files" in packed.output
    assert "a rank whose pack is 300 s old begins another one" in packed.output
    assert os.listdir() == ["a.traj"]


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


def read_only(monkeypatch) -> None:
    """Let system calls that change something fail as on a read-only mount."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    original = os.open

    def opened(path, flags, *arguments, **keywords):
        if flags & os.O_CREAT:
            refuse()
        return original(path, flags, *arguments, **keywords)

    monkeypatch.setattr(os, "open", opened)
    for name in ("mkdir", "rmdir", "rename", "link", "unlink", "fchmod", "fchown", "utime"):
        monkeypatch.setattr(os, name, refuse)


def stamps(folder):
    """What would change if anything in databases were made, written or removed."""
    found = {path: path.stat() for path in folder.glob("x-*.ampdb/**")}
    found |= {path: path.stat() for path in folder.glob("x-*.ampdb/**/*")}
    return {path: (each.st_ino, each.st_size, each.st_mtime_ns) for path, each in found.items()}


def test_a_read_only_place_is_told_before_images_are_read(folder, monkeypatch):
    read_only(monkeypatch)
    with pytest.raises(DatabaseError, match="read-only: choose another place"):
        fingerprint("no such images", label="x")
    fingerprint("a.traj", label="y", dry_run=True)  # writes nothing


@pytest.mark.parametrize("loose", [False, True])
@pytest.mark.parametrize("owned", [False, True])
def test_a_complete_database_is_used_without_writing_a_byte(folder, monkeypatch, loose, owned):
    images, descriptor = read("a.traj", ":"), Gaussian(cutoff=4.0)
    fingerprint(images, descriptor, label="x", compress=not loose)
    if not owned:
        (folder / "x-fingerprints.ampdb/descriptor.json").unlink()
    before = stamps(folder)
    read_only(monkeypatch)
    summary = fingerprint(images, descriptor, label="x")
    assert (summary.found, summary.computed) == (5, 0)
    assert stamps(folder) == before
    assert loose == any("it may only be read here" in note for note in summary.notes)
    with pytest.raises(DatabaseError, match="read-only"):
        fingerprint([*images, bulk("Cu", a=4.0)], descriptor, label="x")


def test_an_image_at_which_two_runs_ended_is_set_aside(folder):
    """Ranks that were killed leave the files that name what they were at; see test_jobs, too."""
    key = hash_image(read("a.traj", 2))
    home = FingerprintDatabase.create("x-fingerprints.ampdb").make()
    marker = InFlight(home.temporaries, 0)  # of a rank that lives, or died: that is all the same
    marker.start(key, 1)
    first = CliRunner().invoke(command, ["a.traj", "--label", "x", "--cutoff", "4"])
    assert first.exception is None, first.exception
    assert "1 images that earlier runs, or other jobs now, are at are computed last" in first.output
    assert "5 computed, 0 failed" in first.output
    assert home.temporaries.names() == []  # done, so that nobody is at it
    marker = InFlight(home.temporaries, 0)
    marker.start(key, 2)
    again = CliRunner().invoke(command, ["a.traj", "--label", "x", "--cutoff", "4"])
    assert again.exception is None, again.exception  # it is there: nothing is missing
    assert "5 found" in again.output
    FingerprintDatabase("x-fingerprints.ampdb").delete([key])
    third = CliRunner().invoke(command, ["a.traj", "--label", "x", "--cutoff", "4"])
    assert isinstance(third.exception, ImageError)
    assert "a.traj, image 1" not in str(third.exception)
    assert "a.traj, image 2: 2 runs crashed, ran out of memory" in str(third.exception)
    assert "4 found, 0 computed, 1 failed" in third.output
    cured = CliRunner().invoke(command, ["a.traj", "--label", "x", "--cutoff", "4", "--retry"])
    assert cured.exception is None, cured.exception
    assert "4 found, 1 computed, 0 failed" in cured.output
    assert home.temporaries.names() == []


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
