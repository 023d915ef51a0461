"""What is watched during a run: atoms outside the trained range, and members that disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import InputError
from ampmpi.model.scaling import beyond
from ampmpi.text import amount

Array = NDArray[np.float64]

OUTSIDE = ("warn", "stop", "ignore")


@dataclass(frozen=True)
class Watch:
    """What is watched, and what happens.

    Attributes
    ----------
    outside : str
        Atoms outside the trained range: ``warn`` once, ``stop`` the run, or ``ignore`` them.
    margin : float
        An atom is outside if a feature is by more than this part of its trained range.
    spread : float or None, eV/Å
        Largest spread of an atom's force that is accepted, as `Committee`'s ``forces_spread``.
    images : str or None
        Extended XYZ file to which structures with a larger spread are appended, after which the
        run goes on; without it, it stops.
    every : int
        How many steps there are from one look to the next.

    Raises
    ------
    InputError
        A value is wrong; the message names it.
    """

    outside: str = "warn"
    margin: float = 0.05
    spread: float | None = None
    images: str | None = None
    every: int = 10

    def __post_init__(self) -> None:
        if self.outside not in OUTSIDE:
            raise InputError(f"outside: {self.outside!r} is not known; give {', '.join(OUTSIDE)}")
        if not self.margin >= 0.0:
            raise InputError(f"margin: {self.margin} is negative; give a part of the range")
        if self.spread is not None and not self.spread > 0.0:
            raise InputError(f"spread: {self.spread} is not positive; give eV/Å")
        if self.images is not None and self.spread is None:
            raise InputError("images: structures are written where a spread is exceeded; give it")
        if self.every < 1:
            raise InputError(f"every: {self.every} is no number of steps; give 1 or more")


def outside_ranges(
    features: Array,
    species: NDArray[np.int64],
    elements: Sequence[str],
    ranges: Mapping[str, Array],
    margin: float,
) -> NDArray[np.bool_]:
    """Return which atoms have a feature outside its trained range.

    Parameters
    ----------
    features : (n_atoms, max_features) float array
        Features.
    species : (n_atoms,) int64 array
        Place of each atom's element in `elements`.
    elements : sequence of str
        Elements.
    ranges : mapping of str to (n_features, 2) float array
        Smallest and largest value of each feature in the training set, by element.
    margin : float
        Part of the range by which a feature has to be outside.
    """
    far = np.zeros(len(species), bool)
    for number, element in enumerate(elements):
        some = np.flatnonzero(species == number)
        if len(some) and element in ranges:
            fprange = ranges[element]
            far[some] = (beyond(features[some, : len(fprange)], fprange) > margin).any(axis=1)
    return far


class Tally:
    """Counts what was seen outside the trained range, for one line at the end.

    Parameters
    ----------
    elements : sequence of str
        Elements of the potential.
    """

    def __init__(self, elements: Sequence[str]) -> None:
        self.elements = tuple(elements)
        self.looks = 0
        self.seen = 0
        self.most = np.zeros(len(elements))
        self.first: int | None = None

    def add(self, step: int, counts: Array) -> None:
        """Take in the numbers of atoms outside, by element."""
        self.looks += 1
        if counts.any():
            self.seen += 1
            self.first = step if self.first is None else self.first
            self.most = counts if counts.sum() > self.most.sum() else self.most

    def sentence(self, step: int, counts: Array) -> str:
        """Say how many atoms of which elements are outside at a step."""
        atoms = int(counts.sum())
        what = self._in_words(counts)
        verb = "is" if atoms == 1 else "are"
        return (
            f"{amount(atoms, 'atom')} ({what}) {verb} outside the trained range at step {step}: "
            "energies and forces there are guesses"
        )

    def summary(self) -> str | None:
        """Say it of the whole run; None if no atom was outside."""
        if not self.seen:
            return None
        return (
            f"atoms were outside the trained range in {self.seen} of {amount(self.looks, 'look')}, "
            f"first at step {self.first}, at most {self._in_words(self.most)} at once"
        )

    def _in_words(self, counts: Array) -> str:
        each = zip(self.elements, counts, strict=True)
        return ", ".join(f"{count:.0f} {name}" for name, count in each if count)
