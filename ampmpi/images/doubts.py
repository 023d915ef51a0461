"""What is suspicious about a set of images: each kind of doubt is one sentence.

Nothing here stops anything: the sentences are warnings, for the user to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.images.all_electron import likely_energy_unit
from ampmpi.images.distances import LONG, SHORT, likely_unit
from ampmpi.images.imageset import ImageRef
from ampmpi.text import amount

Array = NDArray[np.float64]

FAR = 10.0
"""Robust z-score of an outlier: so many standard deviations, as the middle half tells them."""

LEAST_ENERGY = 0.05
"""eV per atom; an energy that is closer to the others is none."""

LEAST_FORCE = 5.0
"""An outlier's largest force is at least so many times the median one."""

FEWEST = 8
"""Images below which nothing can be said of outliers."""

SAME_ENERGY = 1e-3
"""eV; energies of one geometry that differ by less come from rounding."""

LARGE_STRESS = 1.0
"""eV/Å³; the median stress of a set in the right unit is far below."""

GPA = 1.0 / 160.21766208
"""eV/Å³."""

SHOWN = 20
"""Runs of images that a warning names."""

TOO_CLOSE = 0.5
"""Part of the sum of covalent radii below which two atoms are suspiciously close."""


@dataclass(frozen=True, eq=False)
class Facts:
    """What the labels of a set say, image by image.

    Attributes
    ----------
    indices : (n,) int array
        Numbers of the images in the set, in ascending order.
    keys : (n,) array of bytes
        Hash of each image.
    energies : (n,) float array, eV
        Their energies; nan for none.
    largest_forces : (n,) float array, eV/Å
        The largest force on an atom; nan where there are no forces.
    composition : (n, n_elements) float array
        Number of atoms of each element.
    elements : tuple of str
        The elements.
    largest_stresses : (n,) float array, eV/Å³, or None
        The largest component of the stress; nan where there is none.
    """

    indices: NDArray[np.int64]
    keys: NDArray[Any]
    energies: Array
    largest_forces: Array
    composition: Array
    elements: tuple[str, ...] = ()
    largest_stresses: Array | None = None

    @property
    def n_atoms(self) -> Array:
        """Number of atoms of each image."""
        total: Array = self.composition.sum(axis=1)
        return total


def named(refs: Iterable[ImageRef], most: int | None = None) -> str:
    """Name images, those of one file together: ``a.traj, images 2, 7 and 9 to 12``.

    Parameters
    ----------
    refs : iterable of ImageRef
        The images, in the order of the set.
    most : int, optional
        Runs of images to name; all by default.
    """
    parts: list[str] = []
    left = 0
    for file, group in groupby(refs, key=lambda ref: ref.file):
        runs = _runs([ref.index for ref in group])
        n_shown = len(runs) if most is None else max(most, 0)
        if most is not None:
            most -= len(runs)
        left += sum(last - first + 1 for first, last in runs[n_shown:])
        shown = runs[:n_shown]
        if not shown:
            continue
        words = [word for first, last in shown for word in _words(first, last)]
        text = ", ".join(words[:-1]) + " and " * (len(words) > 1) + words[-1]
        several = len(shown) > 1 or shown[0][0] != shown[0][1]
        parts.append(f"{file}{', ' * bool(file)}image{'s' * several} {text}")
    return "; ".join(parts) + (f"; and {left} more" if left else "")


def _words(first: int, last: int) -> list[str]:
    """Return what a run of images is called."""
    if last - first < 2:
        return [str(number) for number in range(first, last + 1)]
    return [f"{first} to {last}"]


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs


def label_doubts(facts: Facts, ref: Callable[[int], ImageRef]) -> list[str]:
    """Return what is suspicious about the labels of a set, a sentence each.

    Parameters
    ----------
    facts : Facts
        The labels.
    ref : callable
        Names an image by its number in the set.
    """
    per_atom = list(_per_atom(facts))
    return [
        *_zeros(facts),
        *_other_unit(facts),
        *_two_energies(facts, ref),
        *(per_atom or _energy_outliers(facts, ref)),
        *_force_outliers(facts, ref),
        *_large_stresses(facts),
    ]


def _zeros(facts: Facts) -> Iterator[str]:
    given = np.isfinite(facts.energies)
    if given.sum() > 1 and not facts.energies[given].any():
        yield (
            f"all energies of all {int(given.sum())} images are exactly zero: they were probably "
            "not computed"
        )
    given = np.isfinite(facts.largest_forces) & (facts.n_atoms > 1)
    if given.sum() > 1 and not facts.largest_forces[given].any():
        yield (
            f"all forces of all {int(given.sum())} images are exactly zero: they were probably not "
            "computed; train energies alone with --no-forces"
        )


def _other_unit(facts: Facts) -> Iterator[str]:
    if not facts.elements:
        return
    unit = likely_energy_unit(facts.energies, facts.composition, facts.elements)
    if unit is not None:
        yield (
            f"the energies taken for eV are what those of all electrons are in {unit}: "
            f"--units {unit},A reads them so, or {unit},Bohr if lengths are in Bohr"
        )


def _two_energies(facts: Facts, ref: Callable[[int], ImageRef]) -> Iterator[str]:
    order = np.lexsort((facts.indices, facts.keys))
    order = order[np.isfinite(facts.energies[order])]
    keys, energies = facts.keys[order], facts.energies[order]
    same = keys[1:] == keys[:-1]
    if not same.any():
        return
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    spread = np.maximum.reduceat(energies, starts) - np.minimum.reduceat(energies, starts)
    wrong = np.flatnonzero(spread > SAME_ENERGY)
    if not len(wrong):
        return
    worst = wrong[np.argmax(spread[wrong])]
    end = starts[worst + 1] if worst + 1 < len(starts) else len(keys)
    group = order[starts[worst] : end]
    first, last = group[np.argmin(facts.energies[group])], group[np.argmax(facts.energies[group])]
    pair = [ref(int(facts.indices[one])) for one in sorted((int(first), int(last)))]
    yield (
        f"{amount(len(wrong), 'geometry has', 'geometries have')} different energies in different "
        f"images: {pair[0]} and {pair[1]} are the same but for {spread[worst]:.4g} eV; of equal "
        "images the last one is trained on"
    )


def _per_atom(facts: Facts) -> Iterator[str]:
    good = np.isfinite(facts.energies)
    counts, energies, n_atoms = (
        facts.composition[good],
        facts.energies[good],
        facts.n_atoms[good],
    )
    n = len(energies)
    if n < max(FEWEST, 2 * counts.shape[1] + 2) or n_atoms.max() < 1.5 * n_atoms.min():
        return
    whole = _residuals(counts, energies)
    per_atom = _residuals(counts / n_atoms[:, None], energies)
    if np.sqrt(np.mean(per_atom**2)) < 0.2 * np.sqrt(np.mean(whole**2)):
        yield (
            "the energies look like energies per atom: they do not grow with the number of atoms; "
            "energies of whole images are needed (a name that ends in per_atom, as in --energy-key "
            "energy_per_atom, says that they are to be multiplied)"
        )


def _residuals(columns: Array, values: Array) -> Array:
    left: Array = values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]
    return left


def _energy_outliers(facts: Facts, ref: Callable[[int], ImageRef]) -> Iterator[str]:
    good = np.flatnonzero(np.isfinite(facts.energies))
    if len(good) < max(FEWEST, facts.composition.shape[1] + 2):
        return
    n_atoms = facts.n_atoms[good]
    fractions, values = facts.composition[good] / n_atoms[:, None], facts.energies[good] / n_atoms
    kept = np.ones(len(good), dtype=bool)
    for _ in range(10):  # outliers are not to draw the reference energies to themselves
        reference = np.linalg.lstsq(fractions[kept], values[kept], rcond=None)[0]
        left = values - fractions @ reference
        far = np.abs(_z_scores(left, kept)) > FAR
        now = ~far | (np.abs(left - np.median(left[kept])) < LEAST_ENERGY)
        if np.array_equal(now, kept):
            break
        kept = now
    out = np.flatnonzero(~kept)
    if len(out) and len(out) < 0.2 * len(good):
        worst = out[np.argmax(np.abs(left[out]))]
        yield (
            f"{amount(len(out), 'energy is', 'energies are')} far from all others, by up to "
            f"{abs(left[worst]):.3g} eV per atom after reference energies of the elements "
            f"({ref(int(facts.indices[good[worst]]))}): "
            f"{named((ref(int(i)) for i in facts.indices[good[out]]), SHOWN)}"
        )


def _force_outliers(facts: Facts, ref: Callable[[int], ImageRef]) -> Iterator[str]:
    good = np.flatnonzero(np.isfinite(facts.largest_forces))
    if len(good) < FEWEST:
        return
    values = facts.largest_forces[good]
    z = _z_scores(values, np.ones(len(values), dtype=bool))
    out = np.flatnonzero((z > FAR) & (values > LEAST_FORCE * np.median(values)))
    if len(out) and len(out) < 0.2 * len(good):
        worst = out[np.argmax(values[out])]
        yield (
            f"{amount(len(out), 'image has', 'images have')} forces far beyond all others, up to "
            f"{values[worst]:.4g} eV/Å where the median of the largest is "
            f"{np.median(values):.3g} ({ref(int(facts.indices[good[worst]]))}): "
            f"{named((ref(int(i)) for i in facts.indices[good[out]]), SHOWN)}"
        )


def _large_stresses(facts: Facts) -> Iterator[str]:
    if facts.largest_stresses is None:
        return
    values = facts.largest_stresses[np.isfinite(facts.largest_stresses)]
    if len(values) and (middle := float(np.median(values))) > LARGE_STRESS:
        yield (
            f"the stresses are {middle:.3g} eV/Å³ at the median, {middle / GPA:.3g} GPa: they are "
            "probably in GPa or kbar, or virials in eV; write them in eV/Å³, or name virials so "
            "that 'virial' is part of the name"
        )


def _z_scores(values: Array, kept: NDArray[np.bool_]) -> Array:
    """Return how many standard deviations from the median each is; from the median deviation."""
    middle = np.median(values[kept])
    width = 1.4826 * np.median(np.abs(values[kept] - middle))
    scores: Array = (values - middle) / max(width, 1e-12)
    return scores


@dataclass(frozen=True)
class Ratio:
    """An image's smallest distance as part of the sum of covalent radii, and what for.

    Attributes
    ----------
    index : int
        Number of the image.
    value : float
        The ratio.
    unit : str
        The unit of length for which the file's numbers were taken.
    """

    index: int
    value: float
    unit: str


def distance_doubts(ratios: Sequence[Ratio], ref: Callable[[int], ImageRef]) -> list[str]:
    """Return what is suspicious about shortest distances: units, then atoms that are too close.

    The files of a set may be in different units, and each is judged alone.
    """
    doubts = []
    close: list[Ratio] = []
    by_file: dict[str, list[Ratio]] = {}
    for one in ratios:
        by_file.setdefault(ref(one.index).file, []).append(one)
    wrong: dict[tuple[bool, str, str], list[tuple[str, float]]] = {}
    for file, some in by_file.items():
        middle = float(np.median([one.value for one in some]))
        if SHORT <= middle <= LONG:
            close += [one for one in some if one.value < TOO_CLOSE]
            continue
        unit = (likely_unit(middle, some[0].unit) or "").replace("Å", "A")
        wrong.setdefault((middle < SHORT, some[0].unit, unit), []).append((file, middle))
    for (short, read_as, unit), found in wrong.items():
        files = ", ".join(file or "the images" for file, _ in found[:3])
        more = f" and {len(found) - 3} more files" if len(found) > 3 else ""
        doubts.append(
            f"{files}{more}: the shortest distances are {found[0][1]:.2g} times the sum of the "
            f"covalent radii, too {'short' if short else 'long'} for lengths in {read_as}"
            + (f"; are they in {unit}? --units eV,{unit} reads them so" if unit else "")
            + (", and the energies as eV" if unit and read_as == "Bohr" else "")
            + ("" if unit else "; check their unit, and give it with --units")
        )
    if close:
        worst = min(close, key=lambda one: one.value)
        doubts.append(
            f"{amount(len(close), 'image has', 'images have')} atoms suspiciously close to each "
            f"other, down to {worst.value:.2g} times the sum of their covalent radii "
            f"({ref(worst.index)}): {named((ref(one.index) for one in close), SHOWN)}"
        )
    return doubts
