"""Inputs of networks: scaled by range or deviation, constant ones kept or dropped."""

from __future__ import annotations

import numpy as np
import pytest
from ase.io import write
from click.testing import CliRunner
from model_samples import N_FEATURES, random_sample
from test_loss import make_model
from training_images import emt_images

from ampmpi import Amp, evaluate
from ampmpi.cli.train import command
from ampmpi.errors import InputError
from ampmpi.model import NeuralNetwork, amp_file
from ampmpi.model.batch import make_batches
from ampmpi.model.inputs import make_inputs
from ampmpi.model.loss import Coefficients, loss_sums, scale_batch
from ampmpi.model.scaling import (
    deviation_range,
    is_constant,
    merge_ranges,
    merge_spreads,
    network_input,
    rescaling,
    spread_of,
)

COEFFICIENTS = Coefficients(0.7, 0.3)
G2 = [{"type": "G2", "element": e, "eta": eta, "offset": 0.0} for e in ("Cu", "Pt")
      for eta in (0.05, 4.0, 20.0, 2000.0)]  # fmt: skip


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_inputs_of_one_scaling_follow_from_those_of_another_one():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(9, 4)) * [1.0, 10.0, 1e-9, 1.0] + [0.0, 300.0, 5.0, -2.0]
    low, high = values.min(axis=0), values.max(axis=0)
    before = np.stack([low, high], axis=1)
    after = np.stack([low - 1.0, high + np.array([2.0, 3.0, 1.0, 0.0])], axis=1)
    after[3] = [7.0, 7.0]  # which is not scaled, as before[2] is not
    for one, other in ((before, after), (after, before), (before, before)):
        factor, shift = rescaling(one, other)
        x = factor[:, np.newaxis] * network_input(values, other)[:-1] + shift[:, np.newaxis]
        np.testing.assert_allclose(x, network_input(values, one)[:-1], rtol=1e-12, atol=1e-12)


def test_means_and_deviations_of_parts_are_those_of_the_whole():
    values = np.random.default_rng(2).normal(size=(50, 3)) * [1.0, 1e-3, 50.0] + [0.0, 1e4, 2.0]
    parts = [{"Cu": spread_of(values[:7])}, {}, {"Cu": spread_of(values[7:8])},
             {"Cu": spread_of(values[8:]), "Pt": spread_of(values[:2])}]  # fmt: skip
    merged = merge_spreads(parts)
    assert merged["Cu"].n == 50 and merged["Pt"].n == 2
    np.testing.assert_allclose(merged["Cu"].mean, values.mean(axis=0), rtol=1e-14, atol=1e-14)
    x = network_input(values, deviation_range(merged["Cu"]))[:-1]
    np.testing.assert_allclose(x.mean(axis=1), 0.0, atol=1e-8)
    np.testing.assert_allclose(x.std(axis=1), 1.0, rtol=1e-8)


def test_constant_features_are_those_of_a_tiny_range():
    ranges = np.array([[0.0, 2.0], [5.0, 5.0 + 1e-4], [1.0, 1.001], [3.0, 3.0]])
    assert is_constant(ranges).tolist() == [False, True, False, True]
    assert is_constant(np.array([[1.0, 1.0 + 1e-9]])).tolist() == [True]


def parts_of(scale, constant):
    samples = [random_sample(i, n) for i, n in enumerate([4, 3, 5])]
    for one in samples:  # the second feature of Cu is constant, and does not change with positions
        copper = np.array(one.fingerprint.symbols) == "Cu"
        one.fingerprint.values[copper, 1] = 4.0
        one.primes.values[copper[one.primes.pairs[:, 1]], :, 1] = 0.0
    batches = list(make_batches(samples, 6))
    found = merge_ranges([batch.fprange() for batch in batches])
    spreads = merge_spreads([batch.spreads() for batch in batches])
    network, vector = make_model()
    if constant == "drop":
        network.split(vector)["Cu"].layers[0][1] = 0.0
    inputs = make_inputs(network, vector, found, found, spreads, scale=scale, constant=constant)
    inside = [scale_batch(batch, inputs.ranges, inputs.dropped) for batch in batches]
    return inputs, vector, inside, [scale_batch(batch, found) for batch in batches]


@pytest.mark.parametrize("scale", ["range", "deviation"])
@pytest.mark.parametrize("constant", ["keep", "drop"])
def test_the_model_is_the_function_that_was_trained(scale, constant):
    inputs, vector, inside, outside = parts_of(scale, constant)
    network = inputs.network
    assert inputs.dropped == {} or inputs.dropped["Cu"].tolist() == [False, True] + [False] * 3
    trained = loss_sums(network, vector, inside, COEFFICIENTS)
    converted = inputs.to_model(vector)
    model = loss_sums(network, converted, outside, COEFFICIENTS)
    assert model.energy == pytest.approx(trained.energy, rel=1e-12)
    assert model.force == pytest.approx(trained.force, rel=1e-12)
    np.testing.assert_allclose(inputs.from_model(converted), vector, rtol=1e-12, atol=1e-12)
    if constant == "keep":
        np.testing.assert_allclose(
            inputs.gradient_to_model(trained.gradient), model.gradient, rtol=1e-10, atol=1e-10
        )
    else:
        assert (network.split(trained.gradient)["Cu"].layers[0][1] == 0.0).all()
        assert (network.split(converted)["Cu"].layers[0][1] == 0.0).all()
    assert (scale == "range") == (converted is vector)


def test_what_has_weights_is_not_dropped():
    inputs, vector, _, _ = parts_of("range", "drop")
    network = inputs.network
    network.split(vector)["Cu"].layers[0][1] = 0.5
    found = {e: np.tile([1.0, 1.0], (n, 1)) for e, n in N_FEATURES.items()}
    again = make_inputs(network, vector, found, found, {}, scale="range", constant="drop")
    assert not any(mask.any() for mask in again.dropped.values())


def train(label, *arguments, steps=6):
    given = ["--label", label, "--descriptor", "g.toml", "--hidden", "4", "--dblabel", "db"]
    result = CliRunner().invoke(
        command, ["images.traj", *given, "--max-steps", str(steps), *arguments]
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output + result.stderr


def write_functions():
    lines = ["cutoff = 4.0"]
    for element in ("Cu", "Pt"):
        lines += [f"[[Gs.{element}]]\n" + "\n".join(f"{k} = {v!r}" for k, v in one.items())
                  for one in G2]  # fmt: skip
    with open("g.toml", "w", encoding="utf-8") as file:
        file.write("\n".join(lines).replace("'", '"'))


def test_trainings_with_other_inputs():
    images = emt_images(10)
    write("images.traj", images)
    write_functions()
    text = train("range")
    assert "Features that change by less than 0.0001 of the most that one of the element does:" in (
        text
    )
    assert "2 of 8 of Cu (G2 of Cu, eta 2000, offset 0; G2 of Pt, eta 2000, offset 0)" in text
    assert "--constant-features drop leaves them out" in text
    files = {}
    for label, options in {
        "deviation": ["--scale-features", "deviation"],
        "drop": ["--constant-features", "drop", "--overfit", "0.01"],
        "both": ["--scale-features", "deviation", "--constant-features", "drop"],
    }.items():
        text = train(label, *options)
        assert ("they have no weight" in text) == (label != "deviation")
        files[label] = amp_file.read(f"{label}.amp")[1]
        curve = np.genfromtxt(f"{label}-curve.txt", names=True)
        found = list(evaluate(Amp.load(f"{label}.amp"), images))
        rmse = np.sqrt(np.mean([one.energy_error**2 for one in found]))
        assert curve["energy_rmse"][curve["loss"].argmin()] == pytest.approx(rmse, rel=1e-7)
        force = np.sqrt(np.mean([one.force_rmse**2 for one in found]))
        assert curve["force_rmse"][curve["loss"].argmin()] == pytest.approx(force, rel=1e-7)
        assert not any(one.outside for one in found)
    known = amp_file.read("range.amp")[1]["fprange"]
    for label, model in files.items():
        assert model["fprange"] == known
        rows = np.array(model["weights"]["Cu"][1])[[3, 7]]
        assert (rows == 0.0).all() == (label != "deviation")
    with pytest.raises(InputError, match="scale_features: was deviation, is now None"):
        train("both", "--constant-features", "drop")


def test_a_training_with_other_inputs_goes_on_where_it_stopped():
    write("images.traj", emt_images(8))
    write_functions()
    options = ["--scale-features", "deviation", "--constant-features", "drop"]
    train("whole", *options, steps=8)
    train("parts", *options, steps=4)
    train("parts", *options, steps=8)
    whole, parts = (amp_file.read(f"{label}.amp")[1] for label in ("whole", "parts"))
    assert whole["weights"] == parts["weights"]
    assert "finished already" in train("parts", *options, steps=8)
    assert amp_file.read("parts.amp")[1]["weights"] == parts["weights"]


def test_unknown_choices_are_refused():
    with pytest.raises(InputError, match="scale_features is 'std'; use 'range' or 'deviation'"):
        NeuralNetwork(scale_features="std")
    with pytest.raises(InputError, match="constant_features is 'no'; use 'keep' or 'drop'"):
        NeuralNetwork(constant_features="no")
