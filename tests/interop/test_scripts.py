"""One script, run by real Amp, and by ``ampmpi run`` alone and on two ranks: the same numbers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPTS = Path(__file__).with_name("scripts")
AMPMPI = [sys.executable, "-c", "from ampmpi.cli.main import ampmpi; ampmpi()", "run"]
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def answer_of(command: list[str], script: Path, folder: Path) -> Any:
    """Run a script in a folder of its own and return the JSON that it prints, once."""
    folder.mkdir()
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, str(script)], cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 1
    return json.loads(lines[0])


def assert_alike(found: Any, expected: Any, where: str) -> None:
    """Compare what is no number for equality, and numbers closely."""
    assert type(found) is type(expected) or isinstance(found, int | float), where
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name, value in expected.items():
            assert_alike(found[name], value, f"{where}, {name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_alike(one, other, f"{where}, {number}")
    elif isinstance(expected, float):
        np.testing.assert_allclose(found, expected, err_msg=where, **CLOSE)
    else:
        assert found == expected, where


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_of_amps_gives_amps_numbers(amp_python, tmp_path, script):
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    expected = answer_of([amp_python], script, tmp_path / "amp")
    assert_alike(answer_of(AMPMPI, script, tmp_path / "alone"), expected, "alone")
    if mpirun is None:
        pytest.skip("no mpirun: pip install -e .[mpich]")
    ranks = [mpirun, "-n", "2", *AMPMPI]
    assert_alike(answer_of(ranks, script, tmp_path / "ranks"), expected, "two ranks")
