"""Jobs as a user starts them: how they end, and what they leave behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from conftest import (
    AMPMPI,
    Outcome,
    entries,
    finish,
    make_images,
    many_images,
    run,
    start,
    trouble,
    wait_until,
)

from ampmpi import FingerprintDatabase, Gaussian, hash_image

pytestmark = [pytest.mark.mpi, pytest.mark.starts_jobs]


def test_summary_and_exit_code(tmp_path, images_file):
    result = run(["fingerprint", "images.traj", "--label", "x", "--derivatives"], 2, tmp_path)
    assert result.code == 0
    assert result.err == ""
    assert "images.traj, image 2 comes 3 times" in result.out
    assert "16 images, 2 duplicates, 0 found, 14 computed, 0 failed" in result.out
    assert "on 2 ranks" in result.out
    again = run(["fingerprint", "images.traj", "--label", "x", "--derivatives"], 0, tmp_path)
    assert "14 found, 0 computed" in again.out
    assert "on 1 rank" in again.out


def outcar(images: list[Atoms]) -> str:
    """Return what a VASP run over these images writes, as far as it tells of them."""
    symbols = list(dict.fromkeys(images[0].symbols))
    numbers = [list(images[0].symbols).count(symbol) for symbol in symbols]
    lines = [f" POTCAR:    PAW_PBE {symbol} 05Jan2001" for symbol in symbols] * 2
    lines += [f"   ions per type = {' '.join(map(str, numbers))}"]
    for step, image in enumerate(images):
        lines += [
            f"---- Iteration {step + 1:6}(   1) ----",
            "      direct lattice vectors                 reciprocal lattice vectors",
            *(" ".join(f"{x:13.9f}" for x in (*row, 0, 0, 0)) for row in image.cell),
            " POSITION                                       TOTAL-FORCE (eV/Angst)",
            " " + "-" * 83,
            *(" ".join(f"{x:13.5f}" for x in (*row, 0, 0, 0)) for row in image.positions),
            " " + "-" * 83,
            "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)",
            "  " + "-" * 51,
            f"  free  energy   TOTEN  = {-step - 1.0:14.6f} eV",
            "",
            f"  energy  without entropy= {-step - 1.0:14.6f}  energy(sigma->0) = {-step:14.6f}",
        ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("ranks", [0, 2])
def test_files_that_are_read_from_front_to_back(tmp_path, ranks):
    """Most formats do not allow reading a single frame."""
    rng = np.random.default_rng(0)
    steps = []
    for _ in range(20):
        atoms = bulk("Cu", a=3.7, cubic=True)
        atoms.symbols[2:] = "Pt"
        atoms.positions += rng.normal(0.0, 0.05, (4, 3))
        steps.append(atoms)
    (tmp_path / "OUTCAR").write_text(outcar(steps[:8]))
    write(tmp_path / "POSCAR", steps[8])
    write(tmp_path / "a.vasp", steps[9])
    write(tmp_path / "XDATCAR", steps[10:13])
    write(tmp_path / "a.cif", steps[13:16])
    write(tmp_path / "a.json", steps[16:18])
    write(tmp_path / "a.xyz", steps[18:])
    names = ["OUTCAR", "POSCAR", "a.vasp", "XDATCAR", "a.cif", "a.json", "a.xyz"]
    images = {name: read(tmp_path / name, ":") for name in names}
    assert [len(found) for found in images.values()] == [8, 1, 1, 3, 3, 2, 2]
    for step, image in zip(steps, images["OUTCAR"], strict=False):
        assert image.symbols.get_chemical_formula() == step.symbols.get_chemical_formula()
        np.testing.assert_allclose(image.positions, step.positions, atol=1e-5)
    images["OUTCAR"] = images["OUTCAR"][1::3]
    result = run(["fingerprint", "OUTCAR@1::3", *names[1:], "--label", "x"], ranks, tmp_path)
    assert result.code == 0, result
    assert "15 images, 0 duplicates, 0 found, 15 computed, 0 failed" in result.out
    stored = FingerprintDatabase(tmp_path / "x-fingerprints.ampdb")
    descriptor = Gaussian().resolve(["Cu", "Pt"])
    expected = {hash_image(image): image for found in images.values() for image in found}
    assert set(stored) == set(expected)
    for key, image in expected.items():
        reference = descriptor.fingerprint(image)
        np.testing.assert_allclose(stored[key].values, reference.values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ranks", [0, 2])
def test_bad_images_give_exit_code_3(tmp_path, ranks):
    images = make_images(4)
    images[1].positions[0] = images[1].positions[1]
    write(tmp_path / "a.traj", images)
    result = run(["fingerprint", "a.traj", "--label", "x"], ranks, tmp_path)
    assert result.code == 3
    assert "3 computed, 1 failed" in result.out
    assert "ampmpi: error: 1 image failed, all others are done:\n" in result.err
    assert "a.traj, image 1: atoms 0 (Pt) and 1 (Cu) overlap" in result.err
    assert result.err.count("ampmpi: error") == result.err.count("ampmpi: warning") == 1
    assert result.err.count("\n") == 3  # the warning is of distances


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["no.traj", "--label", "x"], 2, "ampmpi: error: there is no file 'no.traj'"),
        (["*.none", "--label", "x"], 2, "ampmpi: error: no file matches '*.none'"),
        (["empty.traj", "--label", "x"], 2, "ampmpi: error: empty.traj is empty"),
        (["rubbish.xyz", "--label", "x"], 2, "ampmpi: error: rubbish.xyz, line 1: the number of"),
        (["cut.traj", "--label", "x"], 2, "ampmpi: error: cut.traj cannot be read ("),
        (["a.traj@7", "--label", "x"], 2, "ampmpi: error: a.traj: the frames given after the @"),
        (["a.traj@b", "--label", "x"], 2, "ampmpi: error: a.traj@b: 'b' does not select frames"),
        (
            ["a.traj", "--label", "no/x"],
            4,
            "ampmpi: error: cannot create the database no/x-fingerprints.ampdb: there is no",
        ),
        (["a.traj", "--label", "file"], 4, "ampmpi: error: file-fingerprints.ampdb is no database"),
        (["a.traj", "--label", "x", "--cutoff", "0"], 2, "ampmpi: error: the cutoff radius"),
        (["a.traj", "--label", "x", "--descriptor", "bad.toml"], 2, "ampmpi: error: bad.toml"),
        (["a.traj", "--label", "x", "--descriptor", "no.toml"], 2, "ampmpi: error: "),
        (["a.traj"], 2, "Error: Missing option '--label'"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, code, sentence):
    write(tmp_path / "a.traj", make_images(2))
    (tmp_path / "empty.traj").touch()
    (tmp_path / "rubbish.xyz").write_text("not\nimages\n")
    (tmp_path / "cut.traj").write_bytes((tmp_path / "a.traj").read_bytes()[:60])
    (tmp_path / "bad.toml").write_text("cutof = 3\n")
    (tmp_path / "file-fingerprints.ampdb").touch()
    before = sorted(tmp_path.iterdir())
    result = run(["fingerprint", *arguments], 3, tmp_path)
    assert result.code == code, result
    assert sentence in result.err
    assert result.err.count("rror: ") == 1
    assert "Traceback" not in result.err
    assert sorted(tmp_path.iterdir()) == before


def test_error_on_one_rank_ends_the_job(tmp_path, images_file):
    x = float(make_images()[3].positions[0, 0])
    process = trouble(
        f"if atoms.positions[0, 0] == {x!r}: raise RuntimeError('of this rank alone')",
        ["fingerprint", "images.traj", "--label", "x"],
        3,
        tmp_path,
    )
    result = finish(process)
    assert result.code == 1
    assert result.err.count("RuntimeError: of this rank alone") == 2
    assert "Traceback" in result.err
    assert " of 3 at " in result.err


def test_error_in_a_script_ends_the_job(tmp_path):
    script = (
        "from ampmpi import fingerprint\n"
        "from ampmpi.parallel.comm import world\n"
        "from ase.build import bulk\n"
        "fingerprint([bulk('Cu')], label='x')\n"
        "if world().rank == 1: raise ValueError('in the script')\n"
        "world().barrier()\n"
    )
    result = finish(start(["-c", script], 3, tmp_path))
    assert result.code == 1
    assert "ValueError: in the script" in result.err


def test_disk_that_fills_up_ends_the_job(tmp_path, images_file):
    process = trouble(
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
        ["fingerprint", "images.traj", "--label", "x"],
        2,
        tmp_path,
    )
    result = finish(process)
    assert result.code == 4
    assert "the file grows beyond the allowed size" in result.err
    assert "Traceback" not in result.err
    assert entries(tmp_path / "x-fingerprints.ampdb") == {}


def wait_for_entries(path: Path, n: int) -> None:
    wait_until(lambda: len(list(path.glob("loose/*"))) >= n)


def kill_last(path: Path, number: int) -> None:
    """Send a signal to the last of two ranks, which left its process id."""
    os.kill(int((path / "pid1").read_text()), number)


SLOW = "time.sleep(0.05)"


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_warning_to_one_rank_stops_all_and_a_restart_completes(tmp_path, number):
    many_images(tmp_path / "a.traj", 60)
    command = ["fingerprint", "a.traj", "--label", "x"]
    process = trouble(SLOW, command, 2, tmp_path)
    wait_for_entries(tmp_path / "x-fingerprints.ampdb", 4)
    kill_last(tmp_path, number)
    result = finish(process, 30)
    assert result.code == 75
    assert result.err.startswith("ampmpi: error: stopped while computing")
    assert "start the same command again" in result.err
    assert result.err.count("\n") == 1
    done = entries(tmp_path / "x-fingerprints.ampdb")
    assert 4 <= len(done) < 60
    assert list((tmp_path / "x-fingerprints.ampdb" / "tmp").iterdir()) == []
    again = run(command, 2, tmp_path)
    assert again.code == 0
    assert f"{len(done)} found, {60 - len(done)} computed" in again.out
    undisturbed = run(["fingerprint", "a.traj", "--label", "y"], 2, tmp_path)
    assert undisturbed.code == 0
    assert entries(tmp_path / "x-fingerprints.ampdb") == entries(tmp_path / "y-fingerprints.ampdb")


def test_warning_while_python_starts_does_no_harm(tmp_path, images_file):
    code = "import os, signal\nfrom ampmpi.cli.main import ampmpi\n"
    code += "os.kill(os.getpid(), signal.SIGUSR1)\nampmpi()"
    result = finish(start(["-c", code, "fingerprint", "images.traj", "--label", "x"], 2, tmp_path))
    assert result.code == 75
    assert run(["fingerprint", "images.traj", "--label", "x"], 2, tmp_path).code == 0


def test_killed_rank_ends_the_job_and_a_restart_completes(tmp_path):
    many_images(tmp_path / "a.traj", 60)
    command = ["fingerprint", "a.traj", "--label", "x"]
    process = trouble(SLOW, command, 2, tmp_path)
    wait_for_entries(tmp_path / "x-fingerprints.ampdb", 4)
    kill_last(tmp_path, signal.SIGKILL)
    assert finish(process, 30).code != 0
    done = len(entries(tmp_path / "x-fingerprints.ampdb"))
    again = run(command, 2, tmp_path)
    assert again.code == 0
    assert f"{done} found, {60 - done} computed" in again.out
    assert list((tmp_path / "x-fingerprints.ampdb" / "tmp").iterdir()) == []


def test_image_that_kills_ranks_is_set_aside(tmp_path):
    images = [bulk("Cu", a=3.6 + 0.001 * i) for i in range(12)]
    write(tmp_path / "a.traj", images)
    bad = hash_image(images[5])
    kill = f"if round(atoms.cell.cellpar()[0] * 2**0.5, 6) == {3.605}: " + (
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = ["fingerprint", "a.traj", "--label", "x"]
    for _ in range(2):
        assert finish(trouble(kill, command, 2, tmp_path)).code not in (0, 3)
    third = finish(trouble(kill, command, 2, tmp_path))
    assert third.code == 3
    assert "11 computed" in third.out or "found" in third.out
    assert "a.traj, image 5: 2 runs crashed" in third.err
    assert third.err.count("a.traj, image") == 1
    stored = entries(tmp_path / "x-fingerprints.ampdb")
    assert len(stored) == 11
    assert bad not in stored
    cured = run([*command, "--retry"], 2, tmp_path)
    assert cured.code == 0
    assert len(entries(tmp_path / "x-fingerprints.ampdb")) == 12


@pytest.mark.parametrize("ranks", [0, 2])
def test_two_jobs_at_one_image(tmp_path, ranks):
    """One that is at an image is not taken for dead, nor does it keep the other from it."""
    many_images(tmp_path / "a.traj", 6)
    command = ["fingerprint", "a.traj", "--label", "x", "--no-compress"]
    in_it = (
        "if atoms.symbols[0] == 'Cu' and not os.path.exists('was in'):\n"
        "            open('was in', 'w').close(); open('in it', 'w').close()\n"
        "            while os.path.exists('in it'): time.sleep(0.02)"
    )
    slow = trouble(in_it, command, ranks, tmp_path)
    wait_until((tmp_path / "in it").exists)
    other = run(command, ranks, tmp_path)
    assert other.code == 0, other
    assert ", 0 failed" in other.out
    assert "computed last" in other.out
    (tmp_path / "in it").unlink()
    assert finish(slow, 60).code == 0
    assert len(entries(tmp_path / "x-fingerprints.ampdb")) == 6
    assert list((tmp_path / "x-fingerprints.ampdb" / "tmp").iterdir()) == []


@pytest.mark.parametrize("ranks", [0, 2])
def test_a_database_that_is_removed_meanwhile_ends_the_job(tmp_path, ranks):
    many_images(tmp_path / "a.traj", 60)
    process = trouble(SLOW, ["fingerprint", "a.traj", "--label", "x"], ranks, tmp_path)
    path = tmp_path / "x-fingerprints.ampdb"
    wait_for_entries(path, 4)
    path.rename(tmp_path / "gone")
    while (tmp_path / "gone").exists():
        shutil.rmtree(tmp_path / "gone", ignore_errors=True)
    result = finish(process, 60)
    assert result.code == 4, result
    assert "was removed while it was in use" in result.err
    assert "Traceback" not in result.err
    assert not path.exists()


@pytest.mark.parametrize("ranks", [0, 2])
def test_a_database_that_is_replaced_meanwhile_is_followed(tmp_path, ranks):
    """By its name, entries went into another descriptor's database, with exit code 0."""
    many_images(tmp_path / "a.traj", 60)
    process = trouble(SLOW, ["fingerprint", "a.traj", "--label", "x"], ranks, tmp_path)
    path = tmp_path / "x-fingerprints.ampdb"
    wait_for_entries(path, 4)
    path.rename(tmp_path / "moved-fingerprints.ampdb")
    with FingerprintDatabase.create(path) as other:
        other.claim({"Rc": 3.0}, "another")
    result = finish(process, 60)
    assert result.code == 0, result
    assert "60 computed" in result.out
    assert len(entries(tmp_path / "moved-fingerprints.ampdb")) == 60
    assert len(entries(path)) == 0


@pytest.mark.parametrize(
    "between",
    [
        ["b.traj", "--label", "x", "--derivatives"],  # other images
        ["a.traj", "--label", "x"],  # the same, but not what crashes
        ["b.traj", "--label", "x", "--derivatives", "--retry"],
    ],
)
def test_crashes_are_counted_over_other_jobs(tmp_path, between):
    images = [bulk("Cu", a=3.6 + 0.001 * i) for i in range(6)]
    write(tmp_path / "a.traj", images[:4])
    write(tmp_path / "b.traj", images[4:])
    bad = images[2].cell.cellpar()[0]
    kill = f"if abs(atoms.cell.cellpar()[0] - {bad}) < 1e-9: os.kill(os.getpid(), signal.SIGKILL)"
    command = ["fingerprint", "a.traj", "--label", "x", "--derivatives"]
    for _ in range(2):
        assert finish(trouble(kill, command, 0, tmp_path)).code == -signal.SIGKILL
        result = run(["fingerprint", *between], 0, tmp_path)
        assert result.code == 0, result
    third = finish(trouble(kill, command, 0, tmp_path))
    assert third.code == 3, third
    assert "a.traj, image 2: 2 runs crashed" in third.err
    cured = run([*command, "--retry"], 0, tmp_path)
    assert cured.code == 0
    assert run(command, 0, tmp_path).code == 0
    for kind in ("fingerprints", "fingerprint-primes"):
        assert list((tmp_path / f"x-{kind}.ampdb" / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"PMI_SIZE": "4", "PMI_RANK": "0"}, "started 4 ranks, but MPI sees only one"),
        (
            {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"},
            "Open MPI's mpirun started this job, but mpi4py uses MPICH",
        ),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, "MPI sees only one"),
    ],
)
def test_ranks_that_do_not_see_each_other_are_refused(tmp_path, images_file, variables, sentence):
    arguments = [*AMPMPI, "fingerprint", "images.traj", "--label", "x"]
    result = finish(start(arguments, 0, tmp_path, **variables))
    assert result.code == 7, result
    assert sentence in result.err
    assert not list(tmp_path.glob("*.ampdb"))


def test_one_rank_compiles(tmp_path, images_file):
    code = (
        "from ampmpi.cli.main import ampmpi\nimport atexit, sys\n"
        "def tell():\n"
        "    from ampmpi.descriptor import compile_count\n"
        "    sys.stderr.write(f'compiled {compile_count()}\\n')\n"
        "atexit.register(tell)\nampmpi()"
    )
    arguments = ["-c", code, "fingerprint", "images.traj", "--derivatives", "--label"]
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    (tmp_path / "cache").mkdir()
    cold = finish(start([*arguments, "x"], 4, tmp_path, NUMBA_DEBUG_CACHE="1", **cache), 280)
    assert cold.code == 0, cold
    saved = re.findall(r"\[cache\] data saved to '(.*?)'", cold.out)
    assert saved
    assert len(set(saved)) == len(saved)
    told = [line for line in cold.err.splitlines() if line.startswith("compiled ")]
    assert told == ["compiled 0"] * 4
    warm = finish(start([*arguments, "y"], 4, tmp_path, **cache))
    assert warm.err.splitlines() == ["compiled 0"] * 4
    for kind in ("fingerprints", "fingerprint-primes"):
        first, again = (FingerprintDatabase(tmp_path / f"{label}-{kind}.ampdb") for label in "xy")
        assert len(first) > 0
        assert dict(first.items()) == dict(again.items())


def test_serial_run_needs_no_mpi(tmp_path, images_file):
    code = "import sys\nsys.modules['mpi4py'] = None\nfrom ampmpi.cli.main import ampmpi\nampmpi()"
    result: Outcome = finish(
        start(["-c", code, "fingerprint", "images.traj", "--label", "x"], 0, tmp_path)
    )
    assert result.code == 0, result
    assert "14 computed" in result.out
    keys = {hash_image(image) for image in make_images()}
    assert entries(tmp_path / "x-fingerprints.ampdb").keys() == keys
    assert np.all([len(key) == 32 for key in keys])
