"""Output to terminals and logs that cannot show every character."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from ase.build import bulk
from ase.io import write
from training_images import emt_images

from ampmpi.parallel.log import Log

LIMITED = [
    {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"PYTHONIOENCODING": "iso-8859-2"},
    {"PYTHONIOENCODING": "gbk"},
]
NAMES = ["ascii", "C", "latin2", "gbk"]


def run(arguments, cwd, settings):
    return subprocess.run(
        [sys.executable, "-m", "ampmpi", *arguments],
        cwd=cwd,
        env={**os.environ, **settings},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("settings", LIMITED, ids=NAMES)
def test_no_character_ends_a_command(tmp_path, settings):
    write(tmp_path / "made.traj", [bulk("Cu", a=3.6), bulk("Cu", a=3.7)])
    name = "Å→".encode() + b"\xff.traj"
    os.rename(tmp_path / "made.traj", os.path.join(os.fsencode(tmp_path), name))
    options = ["--label", "x", "--cutoff", "4", "--dry-run"]
    done = run(["fingerprint", name, *options], tmp_path, settings)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"2 images" in done.stdout
    wrong = run(["fingerprint", name + b"@9", *options], tmp_path, settings)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(b"ampmpi: error: ")
    assert wrong.stderr.count(b"\n") == 1


@pytest.mark.parametrize("settings", LIMITED[1::2], ids=NAMES[1::2])
def test_a_training_ends_and_is_evaluated_on_any_terminal(tmp_path, settings):
    write(tmp_path / "a.traj", emt_images(3))
    for arguments in (
        ["images", "a.traj"],
        ["train", "a.traj", "--label", "x", "--cutoff", "4", "--hidden", "3", "--max-steps", "2"],
        ["evaluate", "x.amp", "a.traj"],
        ["plot", "x", "a.traj"],
    ):
        done = run(arguments, tmp_path, settings)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert "eV/Å" in (tmp_path / "x-report.html").read_text(encoding="utf-8")


def test_kernels_that_are_not_compiled_are_refused_in_a_sentence(tmp_path):
    write(tmp_path / "a.traj", emt_images(1))
    done = run(["fingerprint", "a.traj", "--label", "x"], tmp_path, {"NUMBA_DISABLE_JIT": "1"})
    assert done.returncode == 7
    assert done.stderr.startswith(b"ampmpi: error: NUMBA_DISABLE_JIT is set")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("settings", LIMITED, ids=NAMES)
def test_advice_is_given_on_any_terminal(tmp_path, settings):
    result = run(["doctor", tmp_path / "a folder called Å"], tmp_path, settings)
    assert result.returncode == 0, result.stderr.decode(errors="replace")
    assert b"is not an existing folder" in result.stdout


def test_the_log_of_a_script_replaces_what_it_cannot_show():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="iso-8859-2", errors="strict")
    Log(stream=stream)("6 Å → ż\udcff")
    assert raw.getvalue() == "6 ? ? ż?\n".encode("iso-8859-2")
