"""The client for i-PI that the documentation shows, with ASE's own server in i-PI's place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.socketio import SocketIOCalculator
from ase.io import write
from export_samples import calculator, images_of
from pace import stretched

from ampmpi import Cosine

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"


def client(name, *, stress):
    """Return the page's client.py for another socket."""
    text = re.search(r":caption: client.py\n\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    assert 'unixsocket="cupt"' in text
    assert "use_stress=True" in text
    return text.replace('="cupt")', f'="{name}")').replace("=True", f"={stress}")


@pytest.mark.parametrize("number", [0, 2])
def test_energy_forces_and_stress_are_those_of_the_calculator(tmp_path, number):
    """The server moves the atoms and changes the cell; the client never sees anything else."""
    calc = calculator(Cosine(4.7), (4, 3))
    calc.save(tmp_path / "cupt.amp")
    atoms = images_of(["Au", "Pd"])[number]
    periodic = bool(atoms.pbc.all())
    write(tmp_path / "start.xyz", atoms)
    name = f"ampmpi-{os.getpid()}-{number}"
    (tmp_path / "client.py").write_text(client(name, stress=periodic))
    started = []

    def launch(atoms, properties, port, unixsocket):
        started.append(subprocess.Popen([sys.executable, "client.py"], cwd=tmp_path))
        return started[-1]

    rng = np.random.default_rng(number)
    with SocketIOCalculator(
        unixsocket=name, launch_client=launch, timeout=stretched(120)
    ) as server:
        for _ in range(4):
            atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
            if periodic:
                atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.01, size=(3, 3))))
            theirs, ours = atoms.copy(), atoms.copy()
            theirs.calc, ours.calc = server, calc
            energy, forces = theirs.get_potential_energy(), theirs.get_forces()
            assert energy == pytest.approx(ours.get_potential_energy(), abs=1e-11)
            np.testing.assert_allclose(forces, ours.get_forces(), rtol=0, atol=1e-11)
            assert np.abs(forces).max() > 0.01
            if periodic:
                stress = theirs.get_stress()
                np.testing.assert_allclose(stress, ours.get_stress(), rtol=0, atol=1e-13)
                assert np.abs(stress).max() > 1e-5
    assert [process.wait(stretched(60)) for process in started] == [0]
