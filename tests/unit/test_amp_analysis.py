"""What stands behind ``amp.analysis``, ``FingerprintPlot`` and ``NodePlot``."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from training_images import emt_images

from ampmpi import Amp, Gaussian, LossFunction, NeuralNetwork
from ampmpi.amp.analysis import (
    calc_rmse,
    plot_convergence,
    plot_parity_and_error,
    plot_sensitivity,
    read_trainlog,
)
from ampmpi.amp.descriptor.analysis import FingerprintPlot
from ampmpi.amp.model.neuralnetwork import NodePlot
from ampmpi.amp.utilities import MissingDataError, get_hash
from ampmpi.cli.plotconvergence import command
from ampmpi.errors import InputError, ModelError

IMAGES = emt_images(4)

AMPS_LOG = """\
Amp training started. 2024-01-02T03:04:05

Descriptor: Gaussian
Hashing images...
 5 unique images after hashing.
...hashing completed. 0.1 ms
 Loss function convergence criteria:
  energy_rmse: 0.02
  energy_maxresid: None
  force_rmse: 0.04
  force_maxresid: None
  Loss function set-up:
  energy_coefficient: 1.0
  force_coefficient: 0.04
  overfit: 0.0

                                           Loss (SSD)   EnergyRMSE     MaxResid   ForceRMSE
 Step                Time
===== =================== ============   ==========   ==========   ==========   ==========
    0 2024-01-02T03:04:06   1.0000e+01   1.0000e+00 -   2.0000e+00 -   5.0000e+00 -   9.0000e+00 -
 Saving checkpoint data.
Overwriting file: "amp-checkpoint.amp". Moving original to "/tmp/x.amp".
    1 2024-01-02T03:04:07   5.0000e-01   1.0000e-02 C   1.5000e-02 -   3.0000e-02 C   7.0000e-01 -
...optimization successful.
    2 2024-01-02T03:04:08   0.0000e+00   0.0000e+00 C   0.0000e+00 -   0.0000e+00 C   0.0000e+00 -
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def a_calculator(forces=True, maxiter=4, hidden=(3, 2), **options):
    criteria = {"energy_rmse": 1e-6, "force_rmse": 1e-6 if forces else None}
    loss = LossFunction(convergence=criteria, maxiter=maxiter)
    network = NeuralNetwork(hiddenlayers=hidden, randomseed=1, lossfunction=loss)
    return Amp(Gaussian(cutoff=4.0), network, label="t", **options)


@pytest.fixture
def trained():
    calc = a_calculator()
    calc.train(IMAGES)
    return calc


def test_logs_of_amp_are_read(capsys):
    Path("amp-log.txt").write_text("header\n" + AMPS_LOG + "\nAmp training started. later\n")
    data = read_trainlog("amp-log.txt")
    assert data["no_images"] == 5
    d = data["convergence"]
    assert (d["energy_rmse"], d["energy_maxresid"], d["force_rmse"]) == (0.02, None, 0.04)
    assert d["costfxngoal"] == pytest.approx(5 * 0.02**2 + 0.04 * 5 * 0.04**2)
    assert d["converged"] is True
    assert d["steps"] == [0, 1]
    assert d["costfxns"] == [10.0, 0.5]
    assert (d["es"], d["emrs"]) == ([1.0, 0.01], [2.0, 0.015])
    assert (d["fs"], d["fmrs"]) == ([5.0, 0.03], [9.0, 0.7])
    assert d["costfxnEs"] == pytest.approx([5 / 10, 5e-4 / 0.5])
    assert d["costfxnFs"] == pytest.approx([0.04 * 5 * 25 / 10, 0.04 * 5 * 9e-4 / 0.5])
    assert "energy_rmse: 0.02" in capsys.readouterr().out
    both = read_trainlog("amp-log.txt", verbose=False, multiple=True)
    assert both == [data, {}]
    assert capsys.readouterr().out == ""


def test_logs_of_ours_are_read():
    calc = a_calculator(forces=False)
    calc.train(IMAGES, validation_fraction=0.25, seed=1)
    other = a_calculator()
    other.train(IMAGES, overwrite=True)
    first, second = read_trainlog("t-log.txt", verbose=False, multiple=True)
    assert (first["no_images"], second["no_images"]) == (3, 4)
    assert first["convergence"]["fs"] == [] and first["convergence"]["force_coefficient"] == 0.0
    curve = np.genfromtxt("t-curve.txt", names=True)
    d = second["convergence"]
    assert d["steps"] == curve["step"].tolist()
    for ours, name in (("es", "energy_rmse"), ("fs", "force_rmse"), ("fmrs", "force_maxresid"),
                       ("emrs", "energy_maxresid"), ("costfxns", "loss")):  # fmt: skip
        assert d[ours] == pytest.approx(curve[name].tolist(), rel=1e-3)
    parts = np.add(d["costfxnEs"], d["costfxnFs"])
    assert parts == pytest.approx(np.ones(len(parts)), rel=1e-3)


def test_what_is_no_log_is_refused():
    with pytest.raises(InputError, match=r"no-log.txt cannot be read: No such file"):
        read_trainlog("no-log.txt")
    Path("no-log.txt").write_text("nothing\n")
    with pytest.raises(InputError, match="tells of 0 trainings"):
        read_trainlog("no-log.txt")
    with pytest.raises(InputError, match="nothing to draw"):
        plot_convergence({})


def test_convergence_is_drawn():
    Path("amp-log.txt").write_text(AMPS_LOG)
    data = read_trainlog("amp-log.txt", verbose=False)
    axes, parts = plot_convergence(data, plotfile=None).axes
    drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(drawn["force rmse"]) == [5.0, 0.03]
    assert list(drawn["loss function"]) == [10.0, 0.5]
    assert len(parts.collections) == 2
    plot_convergence(data, "c.svg")
    assert Path("c.svg").read_text().startswith("<?xml")


def test_amp_plotconvergence_has_a_page_for_each_training():
    Path("amp-log.txt").write_text(AMPS_LOG + AMPS_LOG)
    result = CliRunner().invoke(command, ["amp-log.txt"], standalone_mode=False)
    assert result.output == "convergence.pdf: 2 trainings\n"
    assert pages(Path("convergence.pdf")) == 2
    result = CliRunner().invoke(command, ["amp-log.txt", "c.png"], standalone_mode=False)
    assert isinstance(result.exception, InputError)


def pages(path):
    data = path.read_bytes() if isinstance(path, Path) else path
    assert data.startswith(b"%PDF")
    return len(re.findall(rb"/Type /Page\b", data))


def test_parity_and_errors(trained):
    energies, forces = plot_parity_and_error("t.amp", IMAGES, returndata=True)
    assert pages(Path("parity-plot.pdf")) == pages(Path("error-plot.pdf")) == 1
    for atoms in IMAGES:
        key, n = get_hash(atoms), len(atoms)
        right, found = atoms.get_potential_energy(), trained.get_potential_energy(atoms)
        assert energies[key] == pytest.approx([right, found, right / n, abs(found - right) / n])
        reference, predicted, error = forces[key]
        assert np.array_equal(reference, atoms.get_forces())
        assert np.allclose(predicted, trained.get_forces(atoms), atol=1e-12)
        assert np.allclose(error, abs(predicted - reference), atol=1e-15)
    with pytest.raises(InputError, match=r"parity-plot\.pdf is there already"):
        plot_parity_and_error(trained, IMAGES)
    alone = plot_parity_and_error(
        trained, IMAGES, plot_forces=False, overwrite=True, returndata=True
    )
    assert alone == energies
    bare = [atoms.copy() for atoms in IMAGES]
    with pytest.raises(MissingDataError):
        plot_parity_and_error(trained, bare, overwrite=True)


def test_errors_of_checkpoints():
    calc = a_calculator(maxiter=6)
    calc.model.checkpoints = -2
    calc.train(IMAGES)
    paths = sorted(map(str, Path("t-checkpoints").glob("*.amp")))
    data = calc_rmse(paths, IMAGES)
    curve = np.genfromtxt("t-curve.txt", names=True)
    rows = {int(step): index for index, step in enumerate(curve["step"])}
    assert len(data["steps"]) == len(paths) > 1
    for index, step in enumerate(data["steps"]):
        row = curve[rows[step]]
        for name in ("loss", "energy_rmse", "force_rmse", "energy_maxresid", "force_maxresid"):
            assert data[name][index] == pytest.approx(row[name], rel=1e-6)
    with pytest.raises(InputError, match=r"t.amp: the name is not"):
        calc_rmse(["t.amp"], IMAGES)


def test_sensitivity_is_the_slope_of_the_loss():
    trained = a_calculator(hidden=(1,))
    trained.train(IMAGES)
    own = trained.model.lossfunction
    picture = io.BytesIO()
    losses = plot_sensitivity(trained, IMAGES, d=1e-5, plotfile=picture)
    vector = trained.model.vector
    assert losses.shape == (len(vector), 3)
    assert pages(picture.getvalue()) == len(vector)
    found = calc_rmse_of(trained)
    assert losses[:, 1] == pytest.approx(np.full(len(vector), found))
    trained.model.vector = vector + 1e-5 * (np.arange(len(vector)) == 4)
    assert losses[4, 2] == pytest.approx(calc_rmse_of(trained), rel=1e-9)
    assert trained.model.lossfunction is own


def calc_rmse_of(calc):
    calc.save("1.amp", overwrite=True)
    return calc_rmse(["1.amp"], IMAGES)["loss"][0]


def test_features_are_drawn(trained):
    draw = FingerprintPlot(trained)
    draw(IMAGES, overlay=[IMAGES[0][1], IMAGES[2][0]])
    assert pages(Path("fingerprints.pdf")) == 2
    descriptor = trained.descriptor
    rows = [
        row
        for atoms in IMAGES
        for symbol, row in descriptor.fingerprint(atoms).to_amp()
        if symbol == "Cu"
    ]
    assert np.array_equal(draw.data["Cu"], rows)
    untrained = FingerprintPlot(a_calculator())
    untrained(IMAGES, name="raw.pdf", overlay=IMAGES[0])
    assert np.array_equal(untrained.data["Cu"], rows)


def test_outputs_of_nodes_are_drawn(trained):
    draw = NodePlot(trained)
    draw.plot(IMAGES)
    assert pages(Path("nodeplot.pdf")) == 2
    n = trained.descriptor.n_features["Cu"]
    header, table = draw.data["Cu"]["header"], draw.data["Cu"]["table"]
    assert header == [(layer, i) for layer, m in enumerate((n, 3, 2, 1)) for i in range(m)]
    assert table[:, :n].min() == pytest.approx(-1.0) and table[:, :n].max() == pytest.approx(1.0)
    intercept, slope = trained.model.scalings["Cu"]
    energies = [
        energy
        for atoms in IMAGES
        for symbol, energy in zip(atoms.symbols, trained.get_potential_energies(atoms), strict=True)
        if symbol == "Cu"
    ]
    assert intercept + slope * table[:, -1] == pytest.approx(np.array(energies))
    with pytest.raises(ModelError):
        NodePlot(a_calculator()).plot(IMAGES)
