"""Jobs with packs as a user starts them: what they leave, and what a killed one costs."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write
from conftest import (
    entries,
    finish,
    make_images,
    many_images,
    run,
    start,
    trouble,
    wait_until,
)

from ampmpi import FingerprintDatabase, fingerprint
from ampmpi.database.check import check

pytestmark = [pytest.mark.mpi, pytest.mark.starts_jobs]

NAMES = ("x-fingerprints.ampdb", "x-fingerprint-primes.ampdb")
COUNT = (
    "with open('computed' + os.environ.get('PMI_RANK', '0'), 'a') as file:\n"
    "            file.write(f'{atoms.cell.cellpar()[0]:.6f}\\n')\n"
    "        time.sleep(0.05)"
)
"""Before an image is computed it is noted, so that a test can count."""
COMPRESS = ["-c", "from ampmpi.cli.main import amp_compress; amp_compress()"]


IMAGES = {f"{bulk('Cu', a=3.6 + 0.001 * number).cell.cellpar()[0]:.6f}" for number in range(60)}
"""How images of `many_images` are noted: kernels are warmed up with others."""


def computed(folder: Path) -> Counter[str]:
    """Return how often each image was computed by jobs with `COUNT`."""
    noted = (line for path in folder.glob("computed*") for line in path.read_text().split())
    return Counter(line for line in noted if line in IMAGES)


def names(database: Path, folder: str) -> list[str]:
    """Return what lies in a folder of a database."""
    return sorted(each.name for each in database.joinpath(folder).glob("*"))


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> list[dict[str, bytes]]:
    """Return the entries that a job without packs makes of the images of `images_file`."""
    path = tmp_path_factory.mktemp("loose")
    fingerprint(make_images(), label=path / "x", derivatives=True)
    return [entries(path / name) for name in NAMES]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_the_archive_has_what_loose_entries_give(tmp_path, images_file, expected, ranks):
    command = ["fingerprint", "images.traj", "--label", "x", "--derivatives"]
    result = run([*command, "--packs", "--pack-size", "0.05"], ranks, tmp_path)
    assert (result.code, result.err) == (0, "")
    assert "16 images, 2 duplicates, 0 found, 14 computed, 0 failed" in result.out
    for name, reference in zip(NAMES, expected, strict=True):
        path = tmp_path / name
        assert entries(path) == reference and len(reference) == 14
        info = FingerprintDatabase(path).info()
        assert (info.archived, info.loose, info.packs) == (14, 0, 0)
        assert names(path, "tmp") == names(path, "damaged") == []
        assert check(path).exit_code == 0


def test_packs_of_a_shared_database_stay_and_the_next_job_finds_all(
    tmp_path, images_file, expected
):
    command = ["fingerprint", "images.traj", "--label", "y", "--dblabel", "x", "--derivatives"]
    assert run([*command, "--packs"], 2, tmp_path).code == 0
    for name, reference in zip(NAMES, expected, strict=True):
        assert entries(tmp_path / name) == reference
        info = FingerprintDatabase(tmp_path / name).info()
        # A rank that had nothing to write leaves none.
        assert 1 <= info.packs <= 2
        assert (info.packed, info.loose, info.archived, info.open_packs) == (14, 0, 0, 0)
    before = [names(tmp_path / name, "packs") for name in NAMES]
    again = run(command, 2, tmp_path)
    assert "14 found, 0 computed" in again.out
    assert [names(tmp_path / name, "packs") for name in NAMES] == before
    # Without a dblabel the next job archives what it finds.
    last = run(["fingerprint", "images.traj", "--label", "x", "--derivatives"], 2, tmp_path)
    assert "14 found, 0 computed" in last.out
    for name, reference in zip(NAMES, expected, strict=True):
        assert entries(tmp_path / name) == reference
        assert names(tmp_path / name, "packs") == []
        assert FingerprintDatabase(tmp_path / name).info().archived == 14


def stop(folder: Path, number: int, ranks: int) -> None:
    """Send a signal to the last rank, once some images are computed."""
    wait_until(lambda: sum(computed(folder).values()) >= 4 * ranks)
    os.kill(int((folder / f"pid{ranks - 1}").read_text()), number)


def test_a_warning_ends_the_packs_and_nothing_is_computed_twice(tmp_path):
    ranks = 3
    many_images(tmp_path / "a.traj", 50)
    command = ["fingerprint", "a.traj", "--label", "x", "--packs"]
    process = trouble(COUNT, command, ranks, tmp_path)
    stop(tmp_path, signal.SIGUSR1, ranks)
    result = finish(process)
    assert result.code == 75, result
    path = tmp_path / NAMES[0]
    done = len(computed(tmp_path))
    assert 4 * ranks <= done < 50
    assert len(names(path, "packs")) == ranks
    assert names(path, "tmp") == names(path, "loose") == []
    assert len(entries(path)) == done
    again = finish(trouble(COUNT, command, ranks, tmp_path))
    assert again.code == 0, again
    assert f"{done} found, {50 - done} computed" in again.out
    assert computed(tmp_path).most_common(1)[0][1] == 1
    assert len(entries(path)) == 50
    assert FingerprintDatabase(path).info().archived == 50


@pytest.mark.parametrize("shared", [True, False])
def test_a_killed_rank_costs_the_image_that_it_was_at(tmp_path, shared):
    many_images(tmp_path / "a.traj", 60)
    command = ["fingerprint", "a.traj", "--label", "x", "--packs", "--derivatives"]
    command += ["--dblabel", "x"] if shared else []
    process = trouble(COUNT, command, 3, tmp_path)
    stop(tmp_path, signal.SIGKILL, 3)
    assert finish(process).code not in (0, 75)
    once = sum(computed(tmp_path).values())
    assert 12 <= once < 60
    again = finish(trouble(COUNT, command, 3, tmp_path))
    assert again.code == 0, again
    assert "saved from packs that killed ranks had left unfinished" in again.out + again.err
    twice = [image for image, times in computed(tmp_path).items() if times > 1]
    assert len(twice) <= 3
    assert sum(computed(tmp_path).values()) == 60 + len(twice)
    for name in NAMES:
        assert len(entries(tmp_path / name)) == 60
        assert names(tmp_path / name, "tmp") == names(tmp_path / name, "loose") == []
        info = FingerprintDatabase(tmp_path / name).info()
        assert (info.packs == 0, info.archived) == ((False, 0) if shared else (True, 60))
        assert check(tmp_path / name).exit_code == 0


def test_a_compress_saves_what_killed_ranks_left(tmp_path):
    many_images(tmp_path / "a.traj", 60)
    command = ["fingerprint", "a.traj", "--label", "x", "--packs"]
    process = trouble(COUNT, command, 2, tmp_path)
    stop(tmp_path, signal.SIGKILL, 2)
    finish(process)
    once = sum(computed(tmp_path).values())
    path = tmp_path / NAMES[0]
    assert len(entries(path)) == 0 and len(names(path, "tmp")) >= 2
    result = finish(start([*COMPRESS, path.name], 0, tmp_path))
    assert result.code == 0, result
    assert "saved from packs that killed ranks had left unfinished" in result.out + result.err
    assert once - 2 <= len(entries(path)) <= once
    assert len(entries(path)) == FingerprintDatabase(path).info().archived


def test_jobs_with_and_without_packs_on_one_database_beside_compressions(tmp_path):
    images = [bulk("Cu", a=3.6 + 0.001 * number) for number in range(90)]
    path = tmp_path / NAMES[0]
    jobs = []
    for number, options in enumerate([["--packs"], ["--packs", "--pack-size", "0.002"], []]):
        file = tmp_path / f"{number}.traj"
        write(file, images[20 * number : 20 * number + 50])
        assert len(read(file, ":")) == 50
        command = ["fingerprint", file.name, "--label", f"y{number}", "--dblabel", "x"]
        if "--packs" in options:
            options = [*options, "--pack-seconds", "0.2"]
        jobs.append(trouble("time.sleep(0.03)", [*command, *options], number % 2 + 1, tmp_path))
    wait_until(lambda: len(names(path, "packs")) > 0)
    archived = []
    while any(job.poll() is None for job in jobs):
        result = finish(start([*COMPRESS, "-p", "2", path.name], 0, tmp_path))
        assert result.code == 0, result
        archived.append(FingerprintDatabase(path).info().archived)
    for job in jobs:
        result = finish(job)
        assert result.code == 0, result
        assert ", 0 failed" in result.out
    assert archived == sorted(archived) and archived[0] > 0
    assert len(entries(path)) == 90
    assert names(path, "damaged") == []
    last = run(["fingerprint", "?.traj", "--label", "x"], 0, tmp_path)
    assert "90 found, 0 computed" in last.out
    assert FingerprintDatabase(path).info().archived == 90
    assert names(path, "packs") == names(path, "loose") == names(path, "tmp") == []
    fingerprint(images, label=tmp_path / "z")
    assert entries(path) == entries(tmp_path / "z-fingerprints.ampdb")


def test_a_training_with_packs(tmp_path):
    images = [bulk("Cu", a=3.5 + 0.05 * number, cubic=True) for number in range(6)]
    for image in images:
        image.rattle(0.05, seed=0)
        image.calc = EMT()
        image.get_forces()
    rows = {}
    for options in ([], ["--packs", "--pack-seconds", "0.1"]):
        folder = tmp_path / str(len(options))
        folder.mkdir()
        write(folder / "images.traj", images)
        command = ["train", "images.traj", "--label", "x", "--cutoff", "4.5", "--max-steps", "5"]
        result = run([*command, *options], 2, folder)
        assert (folder / "x.amp").exists(), result
        rows[len(options)] = [entries(folder / name) for name in NAMES]
        for name in NAMES:
            assert names(folder / name, "packs") == names(folder / name, "tmp") == []
            assert FingerprintDatabase(folder / name).info().archived == 6
    assert rows[0] == rows[3]
