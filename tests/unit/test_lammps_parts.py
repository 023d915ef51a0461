"""Parts of the coupling to LAMMPS that need no LAMMPS."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.neighborlist import neighbor_list

from ampmpi.descriptor import candidates_among
from ampmpi.errors import ImageError, InputError
from ampmpi.lammps.kept import SKIN, Kept
from ampmpi.lammps.owners import find_owners, sum_at_owners
from ampmpi.lammps.watch import Tally, Watch, outside_ranges
from ampmpi.lammps.words import logical_lines, words_of


def cloud(n=300, seed=0):
    return np.random.default_rng(seed).uniform((0, 0, 0), (12.0, 9.0, 30.0), (n, 3))


@pytest.mark.parametrize("positions", [cloud(), cloud(40) * (1, 0, 0), cloud(30) * (0, 1, 1e-3)])
def test_candidates_are_all_atoms_within_the_radius(positions):
    start, candidate = candidates_among(positions, 25, 4.0)
    distances = np.linalg.norm(positions[:25, None] - positions[None], axis=-1)
    assert len(start) == 26
    for i in range(25):
        found = candidate[start[i] : start[i + 1]]
        wanted = np.flatnonzero(distances[i] < 4.0)
        assert sorted(found.tolist()) == [j for j in wanted.tolist() if j != i]


def test_candidates_of_a_large_crystal_are_those_of_ase():
    atoms = bulk("Cu", cubic=True) * (6, 5, 4)
    atoms.pbc = False
    _, candidate = candidates_among(atoms.positions, len(atoms), 6.0)
    assert len(candidate) == len(neighbor_list("i", atoms, 6.0))


def test_no_atom_has_no_candidates():
    start, candidate = candidates_among(cloud(3), 0, 4.0)
    assert start.tolist() == [0]
    assert len(candidate) == 0


def test_candidates_are_found_anew_when_an_atom_has_moved_by_half_the_skin():
    positions, tags = cloud(), np.arange(1, 301)
    kept = Kept(3.0)
    assert kept.renumbered(tags, 100)
    kept.renumber(tags, 100)
    assert kept.update(positions)
    assert not kept.renumbered(tags, 100)
    positions[250, 1] += 0.49 * SKIN
    assert not kept.update(positions)
    positions[250, 1] += 0.02 * SKIN
    assert kept.update(positions)
    assert not kept.update(positions)
    assert kept.renumbered(tags[::-1], 100)
    assert kept.renumbered(tags, 101)


def test_a_position_that_is_not_finite_is_told():
    positions, tags = cloud(), np.arange(1, 301)
    kept = Kept(3.0)
    kept.renumber(tags, 100)
    kept.update(positions)
    positions[7, 0] = np.nan
    with pytest.raises(ImageError, match="ID 8 is not finite"):
        kept.update(positions)


def test_values_of_ghosts_go_to_their_atoms_on_one_rank():
    tags = np.array([5, 2, 9, 2, 9, 9], np.int32)
    owners = find_owners(None, tags, 3)
    values = np.arange(12.0).reshape(6, 2)
    total = sum_at_owners(None, owners, values)
    np.testing.assert_array_equal(total, [[0, 1], [2 + 6, 3 + 7], [4 + 8 + 10, 5 + 9 + 11]])


def test_a_ghost_without_an_atom_is_told():
    with pytest.raises(InputError, match="IDs 7: the run is broken"):
        find_owners(None, np.array([1, 2, 7]), 2)


def test_atoms_outside_their_elements_range():
    ranges = {"Cu": np.array([[0.0, 1.0], [2.0, 2.0]]), "Pt": np.array([[5.0, 7.0]])}
    features = np.array([[1.04, 2.0], [1.06, 2.0], [0.5, 2.1], [7.05, 99.0], [4.8, 0.0]])
    species = np.array([0, 0, 0, 1, 1])
    far = outside_ranges(features, species, ["Cu", "Pt"], ranges, 0.05)
    assert far.tolist() == [False, True, True, False, True]


def test_what_was_outside_is_summed_up():
    tally = Tally(["Cu", "Pt"])
    tally.add(0, np.zeros(2))
    assert tally.summary() is None
    tally.add(10, np.array([0.0, 2.0]))
    tally.add(20, np.array([1.0, 0.0]))
    assert tally.sentence(20, np.array([1.0, 0.0])).startswith("1 atom (1 Cu) is outside")
    assert tally.summary() == (
        "atoms were outside the trained range in 2 of 3 looks, first at step 10, "
        "at most 2 Pt at once"
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"outside": "shout"}, "give warn, stop, ignore"),
        ({"margin": -1.0}, "margin"),
        ({"spread": 0.0}, "spread"),
        ({"images": "x.xyz"}, "images"),
        ({"every": 0}, "every"),
    ],
)
def test_what_cannot_be_watched_is_named(options, match):
    with pytest.raises(InputError, match=match):
        Watch(**options)


def test_lines_go_on_after_an_ampersand_and_within_triple_quotes():
    text = 'a 1 &\n  2\n\n# c\nprint """x\ny""" # z\nlast'
    assert logical_lines(text) == [
        (1, "a 1   2"), (4, "# c"), (5, 'print """x\ny""" # z'), (7, "last")
    ]  # fmt: skip


def test_words_and_quotes():
    line = """if "${a} > 1" then 'print "b # c"' "" \"\"\"d "e" f\"\"\" # rest "g" """
    assert [word.text for word in words_of(line)] == [
        "if", "${a} > 1", "then", 'print "b # c"', "", 'd "e" f'
    ]  # fmt: skip
    assert words_of(line)[1].raw == '"${a} > 1"'
    assert words_of("  # only a comment") == []
