import numpy as np
import pytest

from ampmpi.descriptor import Cosine, Polynomial
from ampmpi.descriptor.cutoffs import as_cutoff
from ampmpi.errors import DescriptorError

CUTOFFS = [Cosine(6.5), Polynomial(5.0), Polynomial(4.0, gamma=2.5)]


@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_one_at_zero_and_nothing_beyond_the_radius(cutoff):
    assert cutoff(0.0) == pytest.approx(1.0)
    assert cutoff(cutoff.Rc) == pytest.approx(0.0, abs=1e-15)
    assert cutoff(cutoff.Rc + 1e-6) == 0.0
    assert cutoff.prime(cutoff.Rc + 1e-6) == 0.0


@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_prime_is_the_derivative(cutoff):
    R = np.linspace(0.3, cutoff.Rc - 0.1, 30)
    h = 1e-6
    numerical = (cutoff(R + h) - cutoff(R - h)) / (2 * h)
    np.testing.assert_allclose(cutoff.prime(R), numerical, atol=1e-9)


def test_values_by_hand():
    assert Cosine(4.0)(2.0) == pytest.approx(0.5)
    # 1 + 4·(1/2)^5 − 5·(1/2)^4
    assert Polynomial(4.0, gamma=4)(2.0) == pytest.approx(1.0 + 4.0 / 32.0 - 5.0 / 16.0)


@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_amps_dictionary_and_back(cutoff):
    assert as_cutoff(cutoff.todict()) == cutoff


def test_a_number_is_a_cosine_and_foreign_objects_go_by_their_dictionary():
    class Foreign:
        def todict(self):
            return {"name": "Polynomial", "kwargs": {"Rc": 5, "gamma": 3}}

    assert as_cutoff(5) == Cosine(5.0)
    assert as_cutoff(Foreign()) == Polynomial(5.0, 3.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, "above zero"),
        (-1, "above zero"),
        (float("nan"), "finite"),
        ("6.5", "give a number"),
        (True, "give a number"),
        ([6.5], "give a number"),
        ({"name": "Cosine"}, "is not understood"),
        ({"name": "Tanh", "kwargs": {"Rc": 6.0}}, "no cutoff 'Tanh'"),
        ({"name": "Cosine", "kwargs": {}}, "lacks its radius"),
        ({"name": "Cosine", "kwargs": {"Rc": 6.0, "gamma": 4}}, "no argument 'gamma'"),
        ({"name": "Polynomial", "kwargs": {"Rc": 6.0, "gamma": 0.5}}, "at least 1"),
    ],
)
def test_wrong_cutoffs_are_refused(value, message):
    with pytest.raises(DescriptorError, match=message):
        as_cutoff(value)
