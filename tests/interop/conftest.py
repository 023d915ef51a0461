"""Amp itself, in an interpreter of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("amp_side.py")

Ask = Callable[..., Any]


@pytest.fixture(scope="session")
def amp_python() -> str:
    """Return the interpreter in which Amp is installed."""
    python = os.environ.get("AMPMPI_AMP_PYTHON", str(ROOT / ".venv-amp" / "bin" / "python"))
    if not Path(python).exists():
        pytest.skip("Amp is not installed: make interop builds it where gfortran is")
    return python


@pytest.fixture(scope="session")
def amp(amp_python: str, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Return a function that lets Amp do one thing of amp_side.py and returns its answer."""
    folder = tmp_path_factory.mktemp("amp")

    return asker(amp_python, SCRIPT, folder)


@pytest.fixture
def ask(amp_python: str, tmp_path: Path, request: pytest.FixtureRequest) -> Ask:
    """Return a function that lets Amp do one thing of the script that the module names as SIDE."""
    return asker(amp_python, request.module.SIDE, tmp_path)


def asker(python: str, script: Path, folder: Path) -> Ask:
    """Return a function that lets Amp do one thing of a script and returns its answer."""

    def ask(command: str, images: list[Atoms] | None = None, **request: Any) -> Any:
        if images is not None:
            request["images"] = [plain(atoms) for atoms in images]
        (folder / "request.json").write_text(json.dumps(request))
        subprocess.run(
            [python, str(script), command, "request.json", "answer.json"],
            cwd=folder,
            check=True,
            timeout=300,
        )
        return json.loads((folder / "answer.json").read_text())

    return ask


def plain(atoms: Atoms) -> dict[str, Any]:
    """Return an image as JSON can hold it."""
    row: dict[str, Any] = {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
    }
    if atoms.calc is not None:
        row["energy"] = atoms.get_potential_energy()
        row["forces"] = atoms.get_forces(apply_constraint=False).tolist()
    return row
