"""Stress in the loss: against its definition, and its gradient against finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from model_samples import N_FEATURES, random_sample, with_stress
from test_loss import atom_energy, make_model, scaled

from ampmpi.errors import ModelError
from ampmpi.model.batch import make_batch
from ampmpi.model.loss import Coefficients, loss_sums, scale_batch


def samples(which="all"):
    """Images of which all, some or none have forces and stresses."""
    some = [
        random_sample(i, n, weight=w) for i, (n, w) in enumerate([(4, 1), (1, 2), (3, 1), (5, 1)])
    ]
    some = [with_stress(one, i) for i, one in enumerate(some)]
    if which == "some":
        some[0] = replace(some[0], virial=None, strains=None)
        some[1] = replace(some[1], forces=None)
        some[2] = replace(some[2], forces=None, virial=None, strains=None)
        some.append(with_stress(random_sample(20, 3, only_atom=1)))
    elif which == "no primes":
        some = [replace(one, primes=None, forces=None) for one in some]
    return some


def virial_of(network, vector, ranges, sample, h=1e-5):
    """The derivative of the energy by strain, node by node and by differences."""
    virial = np.zeros(6)
    for n, symbol in enumerate(sample.fingerprint.symbols):
        features = sample.fingerprint.values[n, : N_FEATURES[symbol]]
        for v in range(6):
            step = h * sample.strains[n, v, : len(features)]
            ends = [
                atom_energy(network, vector, ranges, symbol, features + s * step) for s in (1, -1)
            ]
            virial[v] += (ends[0] - ends[1]) / (2 * h)
    return virial


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
def test_the_term_is_its_definition(activation):
    batches, ranges = scaled(samples("some"), batch_atoms=6)
    network, vector = make_model(activation)
    sums = loss_sums(network, vector, batches, Coefficients(1.0, None, stress=0.3))
    loss = squares = largest = 0.0
    for sample in samples("some"):
        if sample.virial is None or sample.only_atom >= 0:
            continue
        v = virial_of(network, vector, ranges, sample) - sample.virial
        matrix = np.array([[v[0], v[5], v[4]], [v[5], v[1], v[3]], [v[4], v[3], v[2]]])
        loss += sample.weight * ((matrix / len(sample.fingerprint.symbols)) ** 2).mean()
        squares += sample.weight * ((matrix / sample.volume) ** 2).mean()
        largest = max(largest, np.abs(matrix / sample.volume).max())
    assert sums.stress == pytest.approx(loss, rel=1e-8)
    assert sums.stress_squares == pytest.approx(squares, rel=1e-8)
    assert sums.stress_maxresid == pytest.approx(largest, rel=1e-8)
    assert Coefficients(1.0, None, stress=0.3).weighted(sums) == sums.energy + 0.3 * sums.stress


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
@pytest.mark.parametrize("hidden", [(4, 3), (5,), (3, 4, 2)])
@pytest.mark.parametrize(("which", "force"), [("all", 0.3), ("some", 0.3), ("some", None),
                                              ("no primes", None)])  # fmt: skip
def test_gradient_is_that_of_finite_differences(activation, hidden, which, force):
    batches, _ = scaled(samples(which))
    network, vector = make_model(activation, hidden)
    coefficients = Coefficients(0.7, force, stress=0.2)

    def loss(v):
        return coefficients.weighted(loss_sums(network, v, batches, coefficients, gradient=False))

    gradient = loss_sums(network, vector, batches, coefficients).gradient
    h = 1e-3
    at = {
        k: np.array([loss(vector + k * h * unit) for unit in np.eye(len(vector))])
        for k in (-3, -2, -1, 1, 2, 3)
    }
    numerical = (
        45 * (at[1] - at[-1]) - 9 * (at[2] - at[-2]) + (at[3] - at[-3])
    ) / (60 * h)  # fmt: skip
    np.testing.assert_allclose(gradient, numerical, rtol=1e-7, atol=1e-9 * np.abs(numerical).max())
    without = loss_sums(network, vector, batches, Coefficients(0.7, force)).gradient
    assert np.abs(gradient - without).max() > 1e-5  # far above what is tolerated


def test_without_a_coefficient_nothing_changes():
    plain = [replace(one, virial=None, strains=None) for one in samples()]
    network, vector = make_model()
    one = loss_sums(network, vector, scaled(samples())[0], Coefficients(1.0, 0.3))
    other = loss_sums(network, vector, scaled(plain)[0], Coefficients(1.0, 0.3))
    assert one.gradient.tobytes() == other.gradient.tobytes()
    assert one[:4] == other[:4]
    assert one.stress == one.stress_squares == one.stress_maxresid == 0.0


def test_a_batch_without_stresses_has_no_term():
    plain = [replace(one, virial=None, strains=None) for one in samples()]
    network, vector = make_model()
    batches, _ = scaled(plain)
    assert batches[0].batch.strains is None
    one = loss_sums(network, vector, batches, Coefficients(1.0, 0.3, stress=1.0))
    other = loss_sums(network, vector, batches, Coefficients(1.0, 0.3))
    assert one.gradient.tobytes() == other.gradient.tobytes()


def test_drawn_images_count_as_often_as_they_were_drawn():
    network, vector = make_model()
    [whole], ranges = scaled(samples())
    coefficients = Coefficients(1.0, None, stress=1.0)
    drawn = np.array([0.0, 1.0, 3.0, 1.0])
    found = loss_sums(
        network, vector, [replace(whole, batch=whole.batch.reweighted(drawn))], coefficients
    )
    alone = [
        loss_sums(
            network,
            vector,
            [scale_batch(make_batch([replace(one, weight=1.0)]), ranges)],
            coefficients,
        )
        for one in samples()
    ]
    parts = drawn @ [one.stress for one in alone]
    assert found.stress == pytest.approx(parts, rel=1e-12)
    gradients = drawn @ [one.gradient for one in alone]
    np.testing.assert_allclose(found.gradient, gradients, rtol=1e-10, atol=1e-12)


def test_a_virial_needs_derivatives_by_strain():
    with pytest.raises(ModelError, match="has a virial, but no derivatives by strain"):
        make_batch([replace(samples()[0], strains=None)])
