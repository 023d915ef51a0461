"""Files for OpenKIM, PROPhet and n2p2 are Amp's, where Amp's are right."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from systems import images, with_energies

from ampmpi import Amp, Gaussian, LossFunction, NeuralNetwork
from ampmpi.export import save_to_openkim, save_to_prophet
from ampmpi.export.n2p2 import n2p2_files

SIDE = Path(__file__).with_name("convert_side.py")


@pytest.fixture(scope="module")
def calc(tmp_path_factory):
    """Return a calculator of Cu and Pt with Amp's default functions, trained a little."""
    folder = tmp_path_factory.mktemp("convert")
    loss = LossFunction(convergence={"energy_rmse": 1e-4, "force_rmse": 1e-3}, maxiter=3)
    model = NeuralNetwork(hiddenlayers=(4, 3), randomseed=3, lossfunction=loss)
    calc = Amp(Gaussian(cutoff=6.25), model, label=str(folder / "t"))
    calc.train([with_energies(images()[name]) for name in ("bulk", "slab", "cluster")])
    return calc


@pytest.fixture
def ask(amp_python, calc, tmp_path, monkeypatch):
    """Return a function that lets Amp write its own files, and returns their texts."""
    monkeypatch.chdir(tmp_path)
    calc.save("t.amp")

    def answer(units="metal"):
        subprocess.run([amp_python, str(SIDE), "t.amp", units], check=True, timeout=300)
        return json.loads(Path("answer.json").read_text())

    return answer


def numbers(text):
    """Return all words of a text, with what is a number as one."""
    words = []
    for word in text.split():
        try:
            words.append(float(word))
        except ValueError:
            words.append(word)
    return words


def test_openkim_and_prophet_get_amps_files_to_the_byte(ask, calc):
    theirs = ask()
    save_to_openkim(calc, "ours.params")
    assert Path("ours.params").read_text() == theirs["amp.params"]
    for name in save_to_prophet(calc, "ours_"):
        assert Path(name).read_text() == theirs[f"potential_{name.removeprefix('ours_')}"]


def test_in_other_units_only_what_amp_leaves_out_differs(ask, calc):
    """Amp leaves the energies of OpenKIM's parameters in eV, which the driver does not expect."""
    theirs = ask("real")
    save_to_openkim(calc, "ours.params", units="real")
    ours, other = (
        numbers(text) for text in (Path("ours.params").read_text(), theirs["amp.params"])
    )
    differing = [i for i, (a, b) in enumerate(zip(ours, other, strict=True)) if a != b]
    count = len(calc.model.vector)
    assert len(differing) == 4
    last = ours.index("#", differing[0])
    assert differing == list(range(last - 4, last))
    assert all(isinstance(word, float) for word in ours[last - count : last])
    np.testing.assert_allclose([ours[i] / other[i] for i in differing], 23.06, rtol=1e-4)
    for name in save_to_prophet(calc, "ours_", units="real"):
        other = numbers(theirs[f"potential_{name.removeprefix('ours_')}"])
        assert numbers(Path(name).read_text()) == other


def test_n2p2_gets_amps_numbers_where_both_say_the_same(ask, calc):
    """Cutoff, widths and offsets of functions are rounded by Amp; weights and ranges are not."""
    theirs = ask()
    ours = n2p2_files(calc)
    for name in ("weights.029.data", "weights.078.data"):
        lines = [line.split()[0] for line in theirs[name].splitlines() if line[0] != "#"]
        assert len(lines) == len(ours[name].split())
        np.testing.assert_allclose(
            np.array(ours[name].split(), dtype=float), np.array(lines, dtype=float), rtol=1e-15
        )
    rows = [line.split() for line in theirs["scaling.data"].splitlines() if line[0] != "#"]
    mine = [line.split() for line in ours["scaling.data"].splitlines()]
    assert [row[:2] for row in mine] == [row[:2] for row in rows]
    scaling = [np.array([row[2:4] for row in table], dtype=float) for table in (mine, rows)]
    np.testing.assert_allclose(*scaling, rtol=1e-15)
