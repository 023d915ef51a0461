"""The Gauss-Newton matrix: its rows against finite differences and against the loss's gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from model_samples import random_sample, with_stress
from test_loss import make_model, scaled

from ampmpi.model import jacobian as module
from ampmpi.model.batch import make_batch
from ampmpi.model.contraction import contract
from ampmpi.model.jacobian import Sampling, gauss_newton, jacobian
from ampmpi.model.layers import feature_gradient, forward, sensitivities
from ampmpi.model.loss import Coefficients, loss_sums

ALL = Sampling()


def some_samples():
    samples = [random_sample(10 + i, n, weight=1.0 + i) for i, n in enumerate([5, 2, 1])]
    without = random_sample(14, 3)
    return [*samples, random_sample(20, 3, only_atom=1), replace(without, forces=None)]


def samples_with_stress():
    return [
        *some_samples(),
        with_stress(random_sample(40, 3)),
        with_stress(random_sample(41, 5), 1),
    ]


def residuals_of(network, vector, batch, coefficients):
    """Residuals in the order of the rows: energies, forces, stresses."""
    b = batch.batch
    parameters = network.split(vector)
    atomic, dE_dG = np.empty(len(b.image)), np.zeros((len(b.image), b.primes.shape[2]))
    for e, rows in b.rows.items():
        values, atomic[rows] = forward(parameters[e], batch.x[e], network.activation_index)
        _, by_net = sensitivities(parameters[e], values, network.activation_index)
        feature_gradient(parameters[e], by_net, batch.factors[e], dE_dG[rows])
    errors = (np.bincount(b.image, weights=atomic) - b.energies) / b.n_atoms
    errors *= np.sqrt(2 * coefficients.energy * b.energy_weights)
    if coefficients.force is None:
        return errors[b.energy_weights > 0]
    errors = errors[b.energy_weights > 0]
    forces, _ = contract(b.primes, dE_dG, b.forces, b.force_weights)
    forces *= np.sqrt(2 * coefficients.force * b.force_weights)[:, np.newaxis]
    residuals = np.concatenate([errors, forces[b.force_weights > 0].ravel()])
    if coefficients.stress is None:
        return residuals
    virials = np.zeros((b.n_images, 6))
    np.add.at(virials, b.image, np.einsum("nvf,nf->nv", b.strains, dE_dG))
    weights = 2 * coefficients.stress * b.stress_weights[:, np.newaxis] / 9 * [1, 1, 1, 2, 2, 2]
    stresses = (virials - b.virials) / b.n_atoms[:, np.newaxis] * np.sqrt(weights)
    return np.concatenate([residuals, stresses[b.stress_weights > 0].ravel()])


def rows_of(network, vector, batch, coefficients, sampling=ALL):
    return np.concatenate(
        [rows.copy() for rows in jacobian(network, vector, batch, coefficients, sampling)]
    )


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
@pytest.mark.parametrize("hidden", [(4, 3), (5,), (3, 4, 2), ()])
@pytest.mark.parametrize(("force", "stress"), [(None, None), (0.3, None), (0.3, 0.2)])
def test_rows_are_those_of_finite_differences(activation, hidden, force, stress):
    (batch,), _ = scaled(samples_with_stress())
    network, vector = make_model(activation, hidden)
    coefficients = Coefficients(0.7, force, stress=stress)
    rows = rows_of(network, vector, batch, coefficients)
    h = 1e-5

    def residuals(v):
        return residuals_of(network, v, batch, coefficients)

    numerical = np.array(
        [
            (residuals(vector + h * unit) - residuals(vector - h * unit)) / (2 * h)
            for unit in np.eye(len(vector))
        ]
    ).T
    assert rows.shape == numerical.shape
    np.testing.assert_allclose(rows, numerical, rtol=0, atol=2e-9 * np.abs(numerical).max())


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
@pytest.mark.parametrize("hidden", [(4, 3), (5,), (3, 4, 2), ()])
def test_rows_times_residuals_are_the_gradient(activation, hidden):
    (batch,), _ = scaled(samples_with_stress())
    network, vector = make_model(activation, hidden)
    coefficients = Coefficients(0.7, 0.3, stress=0.2)
    gradient = loss_sums(network, vector, [batch], coefficients).gradient
    rows = rows_of(network, vector, batch, coefficients)
    product = rows.T @ residuals_of(network, vector, batch, coefficients)
    np.testing.assert_allclose(product, gradient, rtol=0, atol=1e-12 * np.abs(gradient).max())
    assert np.abs(gradient).max() > 1e-2


def test_the_matrix_is_that_of_the_rows_however_many_are_made_at_a_time(monkeypatch):
    samples = [*some_samples(), *(random_sample(30 + i, 6) for i in range(4))]
    batches, _ = scaled(samples, batch_atoms=7)
    assert len(batches) > 3
    network, vector = make_model()
    coefficients = Coefficients(0.7, 0.3)
    rows = np.concatenate([rows_of(network, vector, batch, coefficients) for batch in batches])
    expected = np.tril(rows.T @ rows)
    for n in (192, 3, 10):
        monkeypatch.setattr(module, "ROWS", n)
        (matrix,) = gauss_newton(network, vector, batches, coefficients, ALL)
        np.testing.assert_allclose(matrix, expected, atol=1e-12 * np.abs(expected).max())


def test_of_many_parameters_those_into_each_node_are_taken_together(monkeypatch):
    (batch,), _ = scaled(some_samples())
    network, vector = make_model()
    (whole,) = gauss_newton(network, vector, [batch], Coefficients(), ALL)
    monkeypatch.setattr("ampmpi.model.network.MOST_TOGETHER", 50)
    network, _ = make_model()
    blocks, matrices = network.curvature_blocks, None
    matrices = gauss_newton(network, vector, [batch], Coefficients(), ALL)
    assert sorted(i for block in blocks for i in range(len(vector))[block]) == list(
        range(len(vector))
    )
    assert len(blocks) == 2 * (4 + 3 + 1) + 1
    layer = network.split(np.arange(float(len(vector))))["Pt"].layers[0]
    assert any(np.array_equal(np.arange(len(vector))[block], layer[:, 2]) for block in blocks), (
        "a column of a matrix and its bias"
    )
    for block, matrix in zip(blocks, matrices, strict=True):
        np.testing.assert_allclose(matrix, whole[block, block], rtol=1e-12, atol=1e-14)


def test_an_atom_is_taken_whatever_batch_its_image_is_in():
    samples = [random_sample(i, 1 + i % 9) for i in range(120)]
    sampling = Sampling(0.25, seed=3, round=2)

    def taken(some):
        batch = make_batch(some)
        chosen = sampling.chosen(batch)
        return {
            (batch.keys[i], *force)
            for i, force in zip(batch.image[chosen], batch.forces[chosen], strict=True)
        }

    together = taken(samples)
    apart = [taken(samples[i::3]) for i in range(3)]
    assert set().union(*apart) == together
    n_atoms = sum(len(sample.forces) for sample in samples)
    assert 0.2 < len(together) / n_atoms < 0.3
    for other in (Sampling(0.25, seed=4, round=2), Sampling(0.25, seed=3, round=3)):
        batch = make_batch(samples)
        both = (other.chosen(batch) & sampling.chosen(batch)).mean()
        assert both == pytest.approx(0.0625, abs=0.03)


def test_the_matrix_of_some_atoms_is_that_of_all_on_average():
    batches, _ = scaled([random_sample(i, 8) for i in range(4)])
    network, vector = make_model()
    coefficients = Coefficients(1.0, 0.3)
    (whole,) = gauss_newton(network, vector, batches, coefficients, ALL)
    parts = [
        gauss_newton(network, vector, batches, coefficients, Sampling(0.3, round=i))[0]
        for i in range(300)
    ]
    # 300 rounds of some 10 of 32 atoms: about 1 % of the mean is left to chance
    assert np.abs(np.mean(parts, axis=0) - whole).max() < 0.06 * np.abs(whole).max()
    assert np.abs(parts[0] - whole).max() > 0.1 * np.abs(whole).max()


def test_images_that_do_not_count_have_no_rows():
    (batch,), _ = scaled(some_samples())
    drawn = batch.batch.reweighted(np.array([0.0, 2.0, 0.0, 0.0, 1.0]))
    network, vector = make_model()
    rows = rows_of(network, vector, replace(batch, batch=drawn), Coefficients(1.0, 0.3))
    assert len(rows) == 2 + 3 * 2
