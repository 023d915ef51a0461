"""The activation functions: tanh to the last bits, slopes against finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from ampmpi.model.activation import activate, slope_change


def test_tanh_is_that_of_numpy_in_long_doubles():
    rng = np.random.default_rng(0)
    widths = [1e-300, 1e-160, 1e-12, 1e-5, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 1e3]
    x = rng.normal(size=(len(widths), 5001)) * np.array(widths)[:, np.newaxis]
    values = x.copy()
    slopes = activate(values, "tanh")
    exact = np.tanh(x.astype(np.longdouble))
    np.testing.assert_allclose(values, exact.astype(float), rtol=5e-16, atol=0.0)
    np.testing.assert_allclose(slopes, 1.0 - values * values, rtol=0.0, atol=2e-16)


def test_tanh_of_what_is_no_ordinary_number():
    values = np.array([[0.0, -0.0, np.inf, -np.inf, np.nan, 1e308, -5e-324]])
    slopes = activate(values, "tanh")
    np.testing.assert_array_equal(values, [[0.0, -0.0, 1.0, -1.0, np.nan, 1.0, -5e-324]])
    assert np.signbit(values[0, 1])
    np.testing.assert_array_equal(slopes, [[1.0, 1.0, 0.0, 0.0, np.nan, 0.0, 1.0]])


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
def test_slopes_are_those_of_finite_differences(activation):
    x, h = np.linspace(-4.0, 4.0, 81).reshape(3, 27), 1e-5
    values, ahead, behind = x.copy(), x + h, x - h
    slopes = activate(values, activation)
    steeper, flatter = activate(ahead, activation), activate(behind, activation)
    np.testing.assert_allclose(slopes, (ahead - behind) / (2 * h), rtol=0.0, atol=1e-9)
    change = slope_change(values, slopes, activation)
    np.testing.assert_allclose(change, (steeper - flatter) / (2 * h), rtol=0.0, atol=1e-9)
