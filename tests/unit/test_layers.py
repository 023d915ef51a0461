"""The activation functions: to the last bits, slopes against finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from ampmpi.model.layers import ACTIVATIONS, SLOPES, activate

WIDTHS = [1e-300, 1e-160, 1e-12, 1e-5, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 1e2]


def logistic(x):
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-x))


@pytest.mark.parametrize(("activation", "exact"), [("tanh", np.tanh), ("sigmoid", logistic)])
def test_values_are_those_of_numpy_in_long_doubles(activation, exact):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(WIDTHS), 5001)) * np.array(WIDTHS)[:, np.newaxis]
    values = x.copy()
    activate(values, ACTIVATIONS.index(activation))
    np.testing.assert_allclose(
        values, exact(x.astype(np.longdouble)).astype(float), rtol=5e-16, atol=0.0
    )


def test_values_of_what_is_no_ordinary_number():
    x = np.array([[0.0, -0.0, np.inf, -np.inf, np.nan, 1e308, -1e308, -5e-324]])
    expected = {
        "tanh": [0.0, -0.0, 1.0, -1.0, np.nan, 1.0, -1.0, -5e-324],
        "sigmoid": [0.5, 0.5, 1.0, 0.0, np.nan, 1.0, 0.0, 0.5],
        "linear": x[0],
    }
    for activation, values in expected.items():
        found = x.copy()
        activate(found, ACTIVATIONS.index(activation))
        np.testing.assert_allclose(found[0], values, rtol=0.0, atol=1e-300)
        assert np.signbit(found[0, 1]) == (activation != "sigmoid")


@pytest.mark.parametrize("activation", range(3))
def test_slopes_are_those_of_finite_differences(activation):
    x, h = np.linspace(-4.0, 4.0, 81).reshape(3, 27), 1e-5
    values, ahead, behind = x.copy(), x + h, x - h
    for array in (values, ahead, behind):
        activate(array, activation)
    p, q, r = SLOPES[activation]
    slope, steeper, flatter = (p + q * a + r * a**2 for a in (values, ahead, behind))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=0.0, atol=1e-9)
    change = (q + 2.0 * r * values) * slope
    np.testing.assert_allclose(change, (steeper - flatter) / (2 * h), rtol=0.0, atol=1e-9)
