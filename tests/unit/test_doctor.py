from __future__ import annotations

import io
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from ampmpi.cli import doctor, filesystem
from ampmpi.cli.doctor import describe_folder
from ampmpi.cli.filesystem import (
    FileSystem,
    file_system,
    is_writable,
    mounted_at,
    nearest_folder,
)
from ampmpi.parallel.about import MPILibrary, RankSurroundings

LIBRARY = MPILibrary("MPICH", "4.2.1", "4.1", "4.0.0")
MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:20 / /scratch rw - lustre 10.0.0.1@o2ib:/fs rw
31 30 0:21 / /scratch/local rw - tmpfs none rw
32 22 0:22 / /home\\040dirs rw,nosuid shared:5 master:1 - nfs4 server:/home rw
33 22 0:23 / /twice rw - ext4 /dev/b rw
34 33 0:24 / /twice rw - xfs /dev/c rw
no mount at all
""".splitlines()


@pytest.mark.parametrize(
    ("folder", "kind", "mount"),
    [
        ("/etc", "ext4", "/"),
        ("/scratch/x/y", "lustre", "/scratch"),
        ("/scratchy", "ext4", "/"),
        ("/scratch/local/x", "tmpfs", "/scratch/local"),
        ("/home dirs/me", "nfs4", "/home dirs"),
        ("/twice", "xfs", "/twice"),
    ],
)
def test_the_innermost_mount_counts(folder, kind, mount):
    assert mounted_at(Path(folder), MOUNTINFO) == (kind, Path(mount))


def test_file_system_of_a_real_folder(tmp_path):
    system = file_system(tmp_path)
    assert system.kind != "unknown"
    assert system.free_bytes > 0
    assert tmp_path.is_relative_to(system.mount)


def test_a_mount_point_may_have_any_letter():
    lines = ["36 35 0:1 / / rw - ext4 /dev/a rw", r"37 36 0:2 / /mnt/ü\040ß rw - tmpfs none rw"]
    assert mounted_at(Path("/mnt/ü ß/x"), lines) == ("tmpfs", Path("/mnt/ü ß"))


def test_a_full_disk_is_not_writable(monkeypatch, tmp_path):
    assert is_writable(tmp_path)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: io.FileIO("/dev/full", "w"))
    assert not is_writable(tmp_path)


def test_a_path_that_is_not_there_is_told_of(tmp_path):
    assert not [line for line in describe_folder(tmp_path)[1] if "not an existing folder" in line]
    advice = describe_folder(tmp_path / "nowhere")[1]
    assert advice[0].endswith(f"nowhere is not an existing folder: all of this is about {tmp_path}")


def test_nearest_folder(tmp_path):
    (tmp_path / "file").touch()
    assert nearest_folder(tmp_path / "no/such.ampdb") == tmp_path
    assert nearest_folder(tmp_path / "file") == tmp_path
    assert nearest_folder(tmp_path) == tmp_path


def test_small_files_leave_nothing(tmp_path):
    assert filesystem.seconds_per_file(tmp_path, n_files=3) > 0
    assert list(tmp_path.iterdir()) == []


def advice(kind="ext4", free_bytes=10**12, free_inodes=10**9, seconds_per_file=0.001):
    system = FileSystem(kind, Path("/"), free_bytes, free_inodes)
    return " ".join([*doctor.advise_packs(system, seconds_per_file), *doctor.advise_on(system)])


def test_a_good_file_system_needs_no_advice():
    assert advice() == ""
    assert advice(free_inodes=None) == ""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "lustre"}, "lfs setstripe"),
        ({"kind": "nfs4"}, "NFS"),
        ({"kind": "tmpfs"}, "memory"),
        ({"kind": "lustre"}, "nodes share lustre: give fingerprint and train --packs"),
        ({"kind": "nfs4"}, "nodes share nfs4: give fingerprint and train --packs"),
        ({"kind": "gpfs"}, "a few files a rank and database; without it they write one an image"),
        ({"free_inodes": 5}, "only 5 more files fit: give fingerprint and train --packs"),
        ({"seconds_per_file": 0.03}, "small files are slow: give fingerprint and train --packs"),
        ({"free_bytes": 10**6}, "dry-run"),
    ],
)
def test_advice_on_file_systems(settings, said):
    assert said in advice(**settings)


def test_reasons_for_packs_are_one_sentence():
    said = doctor.advise_packs(FileSystem("nfs4", Path("/"), 10**12, 5), 1.0)
    assert len(said) == 1
    reasons, _, _ = said[0].partition(": ")
    assert reasons == "only 5 more files fit, and small files are slow, and nodes share nfs4"


def test_a_slow_folder_is_advised_of_packs(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "seconds_per_file", lambda _: 0.025)
    lines, hints = describe_folder(tmp_path)
    assert ("Small files", "25.00 ms to write, rename, read and remove one") in lines
    assert any("small files are slow" in hint and "--packs" in hint for hint in hints)


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_packs_are_not_advised_where_files_are_cheap(kind):
    assert "--packs" not in advice(kind=kind)


def rank(host="n1", cores=4, **threads):
    return RankSurroundings(host, frozenset(range(cores)), threads)


def described(ranks, library=LIBRARY, environ=None):
    lines, hints = doctor.describe_ranks(library, ranks, environ or {"PMI_SIZE": "4"})
    return dict(lines), " ".join(hints)


def test_a_good_launch_needs_no_advice():
    good = [rank(host, OMP_NUM_THREADS="1") for host in ("n1", "n1", "n2", "n2")]
    lines, hints = described(good)
    assert hints == ""
    assert lines["Ranks"] == "4: 2 on n1, 2 on n2"
    assert lines["MPI"] == "MPICH 4.2.1 (MPI 4.1), mpi4py 4.0.0"
    assert lines["Threads"] == "OMP_NUM_THREADS=1"


@pytest.mark.parametrize(
    ("ranks", "more", "said"),
    [
        ([rank()], {"library": "cannot load MPI library"}, "load your site's MPI module"),
        ([rank()], {"environ": {"HOME": "/"}}, "this was a single process"),
        ([rank("n1"), rank("n1"), rank("n2")], {}, "different numbers of ranks"),
        ([rank(cores=1), rank(cores=1)], {}, "2 ranks share 1 core on n1"),
        ([rank(OMP_NUM_THREADS="1"), rank(OMP_NUM_THREADS="8")], {}, "more than one thread"),
    ],
)
def test_advice_on_ranks(ranks, more, said):
    assert said in described(ranks, **more)[1]


def test_the_cache_of_kernels(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f.1.nbc").touch()
    lines, hints = doctor.describe_cache({"NUMBA_CACHE_DIR": str(tmp_path)})
    assert lines[0][1].startswith(f"1 compiled in {tmp_path}")
    assert hints == []


def test_a_cache_that_cannot_be_written():
    _, hints = doctor.describe_cache({"NUMBA_CACHE_DIR": "/proc/no"})
    assert "not writable" in hints[0]


def test_the_command_says_all(tmp_path):
    result = CliRunner().invoke(doctor.command, [str(tmp_path / "x.ampdb")], catch_exceptions=False)
    assert result.exit_code == 0
    for name in ("Versions:", "MPI:", "Ranks:", "Threads:", "Kernels:", "Folder:", "Free:"):
        assert f"\n{name}" in f"\n{result.output}"
    assert str(tmp_path) in result.output


def test_a_folder_that_cannot_be_written():
    _, hints = doctor.describe_folder(Path("/proc/x.ampdb"))
    assert any("no file can be written in /proc" in hint for hint in hints)
    assert CliRunner().invoke(doctor.command, ["/proc/x.ampdb"]).exit_code == 4


def test_ranks_bound_to_cores_of_their_own_are_not_crowded():
    bound = [RankSurroundings("n1", frozenset({i}), {"OMP_NUM_THREADS": "1"}) for i in range(4)]
    assert described(bound)[1] == ""
