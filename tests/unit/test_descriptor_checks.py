import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ampmpi.descriptor import Gaussian
from ampmpi.errors import ImageError

GAUSSIAN = Gaussian(4.0, elements=["Cu", "Pt"])
PAIR = Atoms("CuPt", positions=[[0, 0, 0], [0, 0, 2.5]], cell=[6.0, 6.0, 6.0], pbc=True)


def with_changes(**changes):
    atoms = PAIR.copy()
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


def position(row, value):
    positions = PAIR.positions.copy()
    positions[row] = value
    return positions


BAD = {
    "no atoms": (Atoms(), "no atoms"),
    "NaN": (with_changes(positions=position(1, np.nan)), r"atom 1 \(Pt\) is not finite"),
    "inf": (with_changes(positions=position(0, [0, np.inf, 0])), r"atom 0 \(Cu\) is not finite"),
    "NaN cell": (with_changes(cell=[6.0, np.nan, 6.0]), "the cell is not finite"),
    "element": (with_changes(numbers=[29, 8]), r"element of atom 1 \(O\).*knows Cu, Pt"),
    "no element": (with_changes(numbers=[29, 0]), r"element of atom 1 \(X\)"),
    "overlap": (
        with_changes(positions=position(1, 0.0)),
        r"atoms 0 \(Cu\) and 1 \(Pt\) overlap",
    ),
    "overlap of an image": (
        with_changes(positions=position(1, [0.0, 6.0, 0.0])),
        r"atoms 0 \(Cu\) and 1 \(Pt\) overlap",
    ),
    "flat cell": (
        with_changes(cell=[[6, 0, 0], [0, 6, 0], [6, 6, 0]]),
        r"singular along its periodic axes \(a, b, c\)",
    ),
    "no vector": (with_changes(cell=[6.0, 0.0, 6.0]), "singular"),
    "no cell": (with_changes(cell=np.zeros((3, 3))), "singular"),
    "parallel": (
        with_changes(cell=[[6, 0, 0], [0, 6, 0], [12, 0, 0]], pbc=[True, False, True]),
        r"singular along its periodic axes \(a, c\)",
    ),
    "zero axis": (
        with_changes(cell=[0.0, 6.0, 6.0], pbc=[True, False, False]),
        r"singular along its periodic axes \(a\)",
    ),
    "far away": (with_changes(positions=[[1e9, 0, 0]] * 2), "is more than 1e.08 Å from the origin"),
    "wrong unit": (
        with_changes(cell=[0.1, 0.1, 0.1]),
        r"neighbours within the cutoff of .*: check",
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("method", ["check", "fingerprint", "fingerprint_primes", "calculate"])
def test_bad_images_are_refused(name, method):
    atoms, message = BAD[name]
    with pytest.raises(ImageError, match=message) as caught:
        getattr(GAUSSIAN, method)(atoms)
    assert str(caught.value).count("\n") == 0


def test_forces_of_a_bad_image_are_refused():
    with pytest.raises(ImageError, match="overlap"):
        GAUSSIAN.contract(BAD["overlap"][0], np.ones((2, 20)))


def test_an_atom_on_its_own_image():
    atoms = Atoms("Cu", cell=[1e-7, 6.0, 6.0], pbc=[True, False, False])
    with pytest.raises(ImageError, match="neighbours"):
        GAUSSIAN.check(atoms)
    with pytest.raises(ImageError, match=r"atom 0 \(Cu\) overlaps with its own periodic image"):
        Gaussian(5e-7, elements=["Cu"]).check(atoms)


def test_many_wrong_atoms_are_counted():
    atoms = Atoms("O5", positions=np.arange(15.0).reshape(5, 3))
    with pytest.raises(ImageError, match=r"atoms 0 \(O\), 1 \(O\), 2 \(O\) and 2 more"):
        GAUSSIAN.check(atoms)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pbc": False, "cell": np.zeros((3, 3))},
        {"pbc": [True, True, False], "cell": [6.0, 6.0, 0.0]},
        {"pbc": [False, False, True], "cell": [[0, 0, 0], [0, 0, 0], [0, 0, 6.0]]},
        {"pbc": [True, False, True], "cell": [[6.0, 0, 0], [6.0, 0, 0], [0, 0, 6.0]]},
        {"positions": position(1, [0.0, 0.0, 1e-3])},
    ],
)
def test_good_images_pass(changes):
    GAUSSIAN.check(with_changes(**changes))


def copper(repeat, pbc=True, a=3.6):
    atoms = bulk("Cu", cubic=True, a=a) * (repeat, repeat, repeat)
    atoms.pbc = pbc
    return atoms


def test_cost_grows_with_atoms_and_density():
    cost = GAUSSIAN.predict_cost
    assert 10 * cost(copper(1)) < cost(copper(3)) < 27 * cost(copper(1))
    assert cost(copper(2)) > 1.5 * cost(copper(2, a=5.0))
    assert cost(copper(2)) > cost(copper(2, pbc=[True, True, False])) > cost(copper(2, pbc=False))
    vacuum = copper(2, pbc=[True, True, False])
    vacuum.cell[2] *= 3.0
    assert cost(vacuum) == cost(copper(2, pbc=[True, True, False]))
    large = copper(6, pbc=False)
    assert cost(large) < 2 * cost(copper(6))  # not as the square of its atoms


@pytest.mark.parametrize("name", BAD)
def test_bad_images_have_a_cost(name):
    assert np.isfinite(GAUSSIAN.predict_cost(BAD[name][0]))
