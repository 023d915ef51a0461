"""The loss: against its definition atom by atom, and its gradient against finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from model_samples import N_FEATURES, random_sample

from ampmpi.errors import ModelError
from ampmpi.model.batch import make_batch, make_batches
from ampmpi.model.loss import Coefficients, loss_sums, overfit_term, scale_batch
from ampmpi.model.network import Network, random_parameters
from ampmpi.model.scaling import merge_ranges


def make_model(activation="tanh", hidden=(4, 3), seed=1):
    network = Network({e: (n, *hidden, 1) for e, n in N_FEATURES.items()}, activation)
    rng = np.random.default_rng(seed)
    vector = rng.normal(size=network.n_parameters) * 0.7
    return network, vector


def scaled(samples, batch_atoms=1024):
    batches = list(make_batches(samples, batch_atoms))
    ranges = merge_ranges([b.fprange() for b in batches])
    return [scale_batch(b, ranges) for b in batches], ranges


def atom_energy(network, vector, ranges, symbol, features):
    """One atom's energy, node by node."""
    parameters = network.split(vector)[symbol]
    low, high = ranges[symbol].T
    x = -1.0 + 2.0 * (features - low) / (high - low)
    for weights in parameters.layers:
        net = np.append(x, 1.0) @ weights
        x = {"tanh": np.tanh, "sigmoid": lambda t: 1 / (1 + np.exp(-t)), "linear": lambda t: t}[
            network.activation
        ](net)
    return parameters.scaling[1] * x[0] + parameters.scaling[0]


def energy_of(network, vector, ranges, sample, shift=None):
    total = 0.0
    for n, symbol in enumerate(sample.fingerprint.symbols):
        features = sample.fingerprint.values[n, : N_FEATURES[symbol]].copy()
        if shift is not None:
            m, d, h = shift
            for (pm, pn), block in zip(sample.primes.pairs, sample.primes.values, strict=True):
                if (pm, pn) == (m, n):
                    features += h * block[d, : len(features)]
        total += atom_energy(network, vector, ranges, symbol, features)
    return total


def forces_of(network, vector, ranges, sample, h=1e-5):
    n_atoms = len(sample.fingerprint.symbols)
    return np.array(
        [
            [
                -(
                    energy_of(network, vector, ranges, sample, (m, d, h))
                    - energy_of(network, vector, ranges, sample, (m, d, -h))
                )
                / (2 * h)
                for d in range(3)
            ]
            for m in range(n_atoms)
        ]
    )


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
def test_loss_is_its_definition(activation):
    samples = [random_sample(i, n, weight=w) for i, (n, w) in enumerate([(4, 1), (1, 2), (3, 1)])]
    batches, ranges = scaled(samples)
    network, vector = make_model(activation)
    sums = loss_sums(network, vector, batches, Coefficients(1.0, 0.04))

    energy = force = energy_max = force_max = 0.0
    for sample in samples:
        n_atoms = len(sample.fingerprint.symbols)
        error = (energy_of(network, vector, ranges, sample) - sample.energy) / n_atoms
        residuals = forces_of(network, vector, ranges, sample) - sample.forces
        energy += sample.weight * error**2
        force += sample.weight * (residuals**2).mean()
        energy_max = max(energy_max, abs(error))
        force_max = max(force_max, np.abs(residuals).max())
    assert sums.energy == pytest.approx(energy, rel=1e-12)
    assert sums.energy_maxresid == pytest.approx(energy_max, rel=1e-12)
    assert sums.force == pytest.approx(force, rel=1e-7)
    assert sums.force_maxresid == pytest.approx(force_max, rel=1e-7)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
@pytest.mark.parametrize("hidden", [(4, 3), (5,), (3, 4, 2)])
@pytest.mark.parametrize("force", [None, 0.3])
def test_gradient_is_that_of_finite_differences(activation, hidden, force):
    samples = [random_sample(10 + i, n) for i, n in enumerate([5, 2, 1])]
    samples.append(random_sample(20, 3, only_atom=1))
    batches, _ = scaled(samples)
    network, vector = make_model(activation, hidden)
    coefficients = Coefficients(0.7, force)

    def loss(v):
        sums = loss_sums(network, v, batches, coefficients, gradient=False)
        return 0.7 * sums.energy + (force or 0.0) * sums.force

    gradient = loss_sums(network, vector, batches, coefficients).gradient
    h = 1e-5
    numerical = np.array(
        [
            (loss(vector + h * unit) - loss(vector - h * unit)) / (2 * h)
            for unit in np.eye(len(vector))
        ]
    )
    np.testing.assert_allclose(gradient, numerical, rtol=2e-7, atol=2e-8 * np.abs(numerical).max())
    assert np.abs(gradient).max() > 1e-3


def test_batches_add_up_whatever_their_size():
    samples = [random_sample(i, 1 + i % 5) for i in range(12)]
    network, vector = make_model()
    whole = loss_sums(network, vector, scaled(samples)[0], Coefficients())
    pieces = loss_sums(network, vector, scaled(samples, batch_atoms=4)[0], Coefficients())
    assert len(scaled(samples, batch_atoms=4)[0]) > 5
    np.testing.assert_allclose(pieces.gradient, whole.gradient, rtol=1e-11, atol=1e-12)
    assert pieces.energy == pytest.approx(whole.energy, rel=1e-12)
    assert pieces.force_maxresid == whole.force_maxresid


def test_an_image_trained_on_one_atom_counts_that_force_alone():
    sample = random_sample(3, 4, only_atom=2)
    batches, ranges = scaled([random_sample(4, 5), sample])
    network, vector = make_model()
    both = loss_sums(network, vector, batches, Coefficients())
    [first] = [scale_batch(make_batch([random_sample(4, 5)]), ranges)]
    rest = loss_sums(network, vector, [first], Coefficients())
    residual = (forces_of(network, vector, ranges, sample) - sample.forces)[2]
    assert both.energy == pytest.approx(rest.energy, rel=1e-12)
    assert both.force - rest.force == pytest.approx((residual**2).mean(), rel=1e-6)


def test_weight_counts_as_that_many_images():
    network, vector = make_model()
    samples = [random_sample(1, 3), random_sample(2, 4)]
    twice, _ = scaled([samples[0], samples[1], samples[1]])
    weighted, _ = scaled([samples[0], replace(samples[1], weight=2.0)])
    a = loss_sums(network, vector, twice, Coefficients())
    b = loss_sums(network, vector, weighted, Coefficients())
    np.testing.assert_allclose(a.gradient, b.gradient, rtol=1e-12, atol=1e-14)
    assert a.force == pytest.approx(b.force, rel=1e-12)


def test_overfit_penalises_the_first_layers_without_biases():
    network, vector = make_model(hidden=(3, 2))
    value, gradient = overfit_term(network, vector, 0.1)
    parts = network.split(vector)
    first = np.concatenate([parts[e].layers[0][:-1].ravel() for e in ("Cu", "Pt")])
    assert value == pytest.approx(0.1 * (first**2).sum())
    assert np.count_nonzero(gradient) == first.size
    np.testing.assert_allclose(
        network.split(gradient)["Pt"].layers[0][:-1], 0.2 * parts["Pt"].layers[0][:-1]
    )


def test_elements_and_features_that_the_model_lacks_are_named():
    batch = make_batch([random_sample(5, 6)])
    ranges = batch.fprange()
    with pytest.raises(ModelError, match="Cu, an element that the model lacks"):
        scale_batch(batch, {"Pt": ranges["Pt"]})
    with pytest.raises(ModelError, match="takes 3 features for Cu"):
        scale_batch(batch, {**ranges, "Cu": ranges["Cu"][:3]})


def test_forces_need_derivatives():
    sample = replace(random_sample(6, 3), primes=None)
    batches, _ = scaled([sample])
    network, vector = make_model()
    with pytest.raises(ModelError, match="no fingerprint primes"):
        loss_sums(network, vector, batches, Coefficients(force=0.1))


def test_a_large_sigmoid_argument_gives_zero_not_a_warning():
    network, vector = make_model("sigmoid")
    batches, _ = scaled([random_sample(7, 3)])
    sums = loss_sums(network, vector * -1e4, batches, Coefficients())
    assert np.isfinite(sums.gradient).all()


def test_a_seed_repeats_the_weights():
    network, _ = make_model()
    first, again = random_parameters(network, 7), random_parameters(network, 7)
    for element in network.elements:
        for a, b in zip(first[element], again[element], strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.abs(a).max() <= np.sqrt(6.0 / (a.shape[0] - 1 + a.shape[1]))
