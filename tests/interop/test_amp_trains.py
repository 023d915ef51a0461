"""Amp trains from a database that we filled, and computes nothing itself."""

from __future__ import annotations

import re

import pytest
from systems import descriptors, images, with_energies

from ampmpi import Gaussian, fingerprint

STEP = re.compile(r" *\d+ \d{4}-\d\d-\d\dT")
NAMES = ("bulk", "slab", "cluster")


@pytest.mark.parametrize("compressed", [False, True], ids=["loose", "archived"])
@pytest.mark.parametrize("case", ["default", "rich, cosine"])
def test_amp_finds_every_fingerprint(amp, tmp_path, monkeypatch, case, compressed):
    monkeypatch.chdir(tmp_path)
    settings = descriptors()[case]
    atoms = [with_energies(images()[name]) for name in NAMES]
    summary = fingerprint(
        atoms, Gaussian(**settings), label="ours", derivatives=True, compress=compressed
    )
    assert summary.computed == len(atoms)

    log = amp(
        "train",
        atoms,
        descriptor=settings,
        label=str(tmp_path / "amps"),
        dblabel=str(tmp_path / "ours"),
    )

    # The first count is of neighbour lists, which only Amp keeps.
    needed = [line.split()[0] for line in log.splitlines() if "new calculations needed" in line]
    assert needed == [str(len(atoms)), "0", "0"]
    assert f"{len(atoms)} total images, {len(atoms)} of which are needed" in log
    losses = [float(line.split()[2]) for line in log.splitlines() if STEP.match(line)]
    assert len(losses) >= 3
    assert min(losses) < losses[0]
