"""Amp knows nothing of packs: it reads what was in them from the archive, and is not disturbed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from amp_form import amp_form, assert_close, received
from ase import Atoms
from ase.build import bulk
from ase.io import write
from pace import YIELD, stretched
from systems import alloy, descriptors, shaken

from ampmpi import FingerprintDatabase, Gaussian, fingerprint, hash_image
from ampmpi.database.compress import compress

SETTINGS = descriptors()["unequal"]
GAUSSIAN = Gaussian(**SETTINGS)
KINDS = ("fingerprints", "fingerprint-primes")
RANKS = 3

JOB = """\
import json, sys
from ampmpi import Gaussian, fingerprint
settings, images, label, dblabel = sys.argv[1:]
summary = fingerprint(
    images, Gaussian(**json.loads(settings)), label=label, dblabel=dblabel or None,
    derivatives=True, packs=True,
)
assert summary.ranks == 3
"""


def images(n: int, repeat: tuple[int, int, int] = (1, 1, 1)) -> list[Atoms]:
    """Return crystals of two elements, no two alike."""
    cell = bulk("Cu", "fcc", a=3.7, cubic=True).repeat(repeat)
    return [alloy(shaken(cell.copy(), 100 + seed)) for seed in range(n)]


def calculated(atoms: list[Atoms]) -> dict[str, dict]:
    """Return, for each kind, each image's hash and entry as Amp has it."""
    both = {hash_image(image): GAUSSIAN.calculate(image) for image in atoms}
    return {
        kind: {key: amp_form(entries[number]) for key, entries in both.items()}
        for number, kind in enumerate(KINDS)
    }


def read_by_amp(amp, path: Path) -> dict[str, dict]:
    return {key: received(rows) for key, rows in amp("read", path=str(path)).items()}


def packs_in(path: Path) -> list[str]:
    return os.listdir(path / "packs") if (path / "packs").exists() else []


@pytest.fixture
def job(tmp_path):
    """Return a function that runs a job with packs on three ranks."""
    where = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    mpirun = shutil.which("mpirun", path=where)
    if mpirun is None:
        pytest.skip("no mpirun: pip install -e .[mpich]")

    def job(atoms: list[Atoms], label: str, dblabel: str = "") -> None:
        write(tmp_path / "images.traj", atoms)
        command = [mpirun, "-n", str(RANKS), sys.executable, "-c", JOB, json.dumps(SETTINGS)]
        subprocess.run(
            [*command, "images.traj", label, dblabel],
            cwd=tmp_path,
            env={**os.environ, **YIELD, "OMP_NUM_THREADS": "1"},
            check=True,
            timeout=stretched(120),
        )

    return job


def test_amp_reads_an_archive_that_three_ranks_assembled(amp, tmp_path, job):
    """From an old archive, loose entries, packs of an earlier job, and packs of this one."""
    atoms = images(12, repeat=(2, 2, 1))
    expected = calculated(atoms)
    fingerprint(atoms[:3], GAUSSIAN, label=tmp_path / "db", derivatives=True)
    paths = {kind: tmp_path / f"db-{kind}.ampdb" for kind in KINDS}
    job(atoms[2:7], "other", "db")
    fingerprint(atoms[6:8], GAUSSIAN, label="other", dblabel=tmp_path / "db", derivatives=True)
    old = {}
    for kind, path in paths.items():
        old[kind] = (path / "archive.tar.gz").stat().st_size
        assert len(packs_in(path)) == RANKS
        assert len(os.listdir(path / "loose")) == 1
        assert read_by_amp(amp, path).keys() == {hash_image(atoms[i]) for i in (0, 1, 2, 7)}

    job(atoms, "db")
    for kind, path in paths.items():
        assert packs_in(path) == os.listdir(path / "loose") == os.listdir(path / "tmp") == []
        assert (path / "archive.tar.gz").stat().st_size > 3 * old[kind]
        assert read_by_amp(amp, path) == expected[kind]
        with tarfile.open(path / "archive.tar.gz", "r|gz") as archive:
            assert {member.name for member in archive} >= expected[kind].keys()


def test_amp_sees_what_is_in_packs_after_a_compress(amp, tmp_path):
    atoms = images(5)
    expected = calculated(atoms)
    fingerprint(atoms, GAUSSIAN, label="db", dblabel=tmp_path / "db", derivatives=True, packs=True)
    for kind in KINDS:
        path = tmp_path / f"db-{kind}.ampdb"
        assert len(packs_in(path)) == 1
        assert read_by_amp(amp, path) == {}
        compress(path)
        assert packs_in(path) == []
        assert read_by_amp(amp, path) == expected[kind]


@pytest.mark.parametrize("archive", [False, True], ids=["loose", "archived by Amp"])
def test_amp_adds_to_a_database_with_packs(amp, tmp_path, archive):
    """It computes what is in packs again; a job then finds all, a compress keeps one of each."""
    atoms = images(7)
    expected = calculated(atoms)
    db = tmp_path / "db"
    fingerprint(atoms[:4], GAUSSIAN, label="x", dblabel=db, derivatives=True, packs=True)
    packs = {kind: packs_in(tmp_path / f"db-{kind}.ampdb") for kind in KINDS}
    answer = amp(
        "write",
        atoms[2:6],
        descriptor=SETTINGS,
        dblabel=str(db),
        derivatives=True,
        archive=archive,
    )
    added = {hash_image(image) for image in atoms[2:6]}
    for kind in KINDS:
        path = tmp_path / f"db-{kind}.ampdb"
        assert answer[kind].keys() == added
        assert packs_in(path) == packs[kind]
        assert len(os.listdir(path / "loose")) == (0 if archive else 4)
        with FingerprintDatabase(path) as database:
            assert set(database) == {hash_image(image) for image in atoms[:6]}
            for key, entry in database.get_many():
                assert_close(amp_form(entry), expected[kind][key], 1e-12)

    summary = fingerprint(
        atoms, GAUSSIAN, label="x", dblabel=db, derivatives=True, packs=True, verify=True
    )
    assert (summary.found, summary.computed, summary.recomputed) == (6, 1, {})
    for kind in KINDS:
        path = tmp_path / f"db-{kind}.ampdb"
        compress(path)
        assert packs_in(path) == os.listdir(path / "loose") == []
        found = read_by_amp(amp, path)
        assert found.keys() == expected[kind].keys()
        for key, entry in found.items():
            assert_close(entry, expected[kind][key], 1e-12)
