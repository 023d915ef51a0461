"""What a committee says of images, one in memory at a time: spreads, and vectors to compare them.

The vector of an image is made of its atoms' features, each scaled so that the trained range
goes from 0 to 1. Two images with the same environments have the same vector, however they are
turned, shifted or numbered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray

from ampmpi.committee import Committee
from ampmpi.descriptor import has_derivatives, in_words
from ampmpi.errors import ImageError, InputError, ModelError, UnusableImagesError
from ampmpi.evaluation import LeftOut, bare
from ampmpi.images import Images, open_images
from ampmpi.images.checks import VARYING, problem, unreadable
from ampmpi.images.distances import ratio, shortest
from ampmpi.model.scaling import NARROWEST
from ampmpi.text import plain

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Surveyed:
    """What was found out about some images of a set.

    Attributes
    ----------
    indices : (n,) int64 array
        Their numbers in the set, ascending; those of images that cannot be used are lacking.
    spreads : (n,) float array, eV/Å
        The largest spread of an atom's force in each.
    atoms : (n,) int64 array
        The atom that has it.
    vectors : (n, n_components) float array
        What tells them apart.
    left : list of LeftOut
        Images that cannot be used, and why.
    """

    indices: NDArray[np.int64]
    spreads: Array
    atoms: NDArray[np.int64]
    vectors: Array
    left: list[LeftOut]


def as_committee(committee: Any) -> Committee:
    """Return a committee that has spreads; `InputError` where there is none.

    Parameters
    ----------
    committee : Committee, sequence of Amp, or what `Committee.load` takes
        The committee.
    """
    from ampmpi.calculator import Amp

    if isinstance(committee, Committee):
        found = committee
    elif isinstance(committee, Sequence) and any(isinstance(one, Amp) for one in committee):
        found = Committee(committee)
    else:
        found = Committee.load(committee)
    if len(found.members) < 2:
        raise InputError(
            "the committee has one member, and no spread: give at least two, such as "
            "'ampmpi train --committee 4' makes"
        )
    for one in found.members:
        if not has_derivatives(one.descriptor):
            raise InputError(
                f"images are chosen by the spread of their forces, and the descriptor "
                f"{in_words(one.descriptor)} has no derivatives"
            )
    return found


def survey(
    committee: Committee, images: Images, indices: Sequence[int], closest: float = 0.0
) -> Surveyed:
    """Look at images of a set, given in ascending order.

    Parameters
    ----------
    committee : Committee
        The committee.
    images : Images
        The set.
    indices : sequence of int
        Which of them.
    closest : float
        Images with atoms closer than this part of the sum of covalent radii are left out.

    Raises
    ------
    ModelError
        A member is not trained.
    """
    found: list[int] = []
    spreads, atoms, vectors = [], [], []
    left: list[LeftOut] = []
    scale = Scale(committee)
    try:
        for index, image in images.read_many(indices):
            kind = _problem(image)
            if kind is None:
                assert not isinstance(image, ImageError)
                one = bare(image)
                try:
                    close = scale.shortest(one) < closest
                    if not close:
                        spread = committee_spreads(committee, one)
                        vector = scale.vector(one)
                except ImageError as error:
                    kind = f"cannot be described ({_reason(error)})"
                except ModelError as error:
                    raise ModelError(f"{images.ref(index)}: {error}") from error
                else:
                    if close:
                        kind = f"has atoms closer than {closest:g} of the sum of their radii"
            if kind is not None:
                left.append(LeftOut(images.ref(index), kind))
                continue
            if not np.isfinite(spread).all():
                left.append(LeftOut(images.ref(index), "has forces that are not finite"))
                continue
            found.append(index)
            atoms.append(int(spread.argmax()))
            spreads.append(float(spread[atoms[-1]]))
            vectors.append(vector)
    finally:
        images.close()
    return Surveyed(
        np.array(found, dtype=np.int64),
        np.array(spreads, dtype=np.float64),
        np.array(atoms, dtype=np.int64),
        np.array(vectors, dtype=np.float64).reshape(len(found), scale.n_components),
        left,
    )


def committee_spreads(committee: Committee, image: Atoms) -> NDArray[np.float64]:
    """Return the spread of each atom's force, (n_atoms,) float array, eV/Å."""
    committee.forget_neighbors()  # the same numbers on any number of ranks
    committee.calculate(image, ["energy", "forces"])
    spreads: NDArray[np.float64] = committee.results["forces_spread"]
    return spreads


def _reason(error: ImageError) -> str:
    """Return why an image cannot be described, without what differs from image to image."""
    first = plain(str(error), 120).partition(": ")[0].rstrip(".")
    return VARYING.sub("…", re.sub(r" \(\w+\)", "", first))


def _problem(image: Atoms | ImageError) -> str | None:
    """Return what is true of all images that cannot be used for the same reason."""
    if isinstance(image, ImageError):
        return unreadable(image)
    wrong = problem(image)
    return None if wrong is None else wrong.kind


class Scale:
    """Features of the first member of a committee, as parts of the range that it was trained on.

    Attributes
    ----------
    n_components : int
        Length of a vector.
    """

    def __init__(self, committee: Committee) -> None:
        member = committee.members[0]
        ranges = {name: np.array(one, float) for name, one in (member.model.fprange or {}).items()}
        if not ranges:
            raise ModelError("the committee is not trained: train it, or load it from its files")
        self.descriptor = member.descriptor.resolve(ranges)
        self.elements = tuple(sorted(ranges))
        self.low = [ranges[name][:, 0] for name in self.elements]
        self.width = [np.maximum(np.ptp(ranges[name], axis=1), NARROWEST) for name in self.elements]
        self.n_components = sum(2 * len(low) + 1 for low in self.low)

    def vector(self, atoms: Atoms) -> Array:
        """Return the vector of an image.

        For each element it has the mean of the scaled features over the atoms and their
        standard deviation, weighted with the root of the element's share of the atoms, and
        that share. It is divided by the root of the number of features, so that the distance of
        two images of one element is the root mean square difference of a feature, as part of
        its trained range.
        """
        fingerprint = self.descriptor.fingerprint(atoms)
        symbols = np.array(fingerprint.symbols)
        parts: list[Array] = []
        for element, low, width in zip(self.elements, self.low, self.width, strict=True):
            mine = symbols == element
            share = float(mine.mean())
            if not share:
                parts.append(np.zeros(2 * len(low) + 1))
                continue
            values = (fingerprint.values[mine, : len(low)] - low) / width
            weight = np.sqrt(share / len(low))
            parts += [weight * values.mean(axis=0), weight * values.std(axis=0), np.array([share])]
        return np.concatenate(parts)

    def shortest(self, atoms: Atoms) -> float:
        """Return the smallest distance of two atoms as part of the sum of covalent radii.

        That is inf where none has a neighbour.
        """
        if not hasattr(self.descriptor, "surroundings"):
            found = ratio(shortest(atoms))
            return float("inf") if found is None else found
        species, neighbors = self.descriptor.surroundings(atoms)
        radii = covalent_radii[[atomic_numbers[name] for name in self.descriptor.elements or ()]]
        centres = np.repeat(radii[species], np.diff(neighbors.start))
        bonds = centres + radii[species[neighbors.neighbor]]
        return float(np.sqrt(np.min(neighbors.squares / bonds**2, initial=np.inf)))


def spread_quantile(committee: Any, images: Any, quantile: float = 0.95) -> float:
    """Return how far a committee usually disagrees, to set a limit by.

    Measured on images that are like those of the training, best on held-out ones, it says
    which spread is usual where the potential is good; a few times that is a sensible limit.

    Parameters
    ----------
    committee : Committee, sequence of Amp, or what `Committee.load` takes
        The committee.
    images : file name, ase.Atoms, or iterable of these
        The images; no labels are needed.
    quantile : float
        The part of the images in which no atom's force is more unsure.

    Returns
    -------
    float
        The spread of an atom's force, eV/Å.

    Raises
    ------
    InputError
        The committee has one member or no forces, or `quantile` is not between 0 and 1.
    UnusableImagesError
        None of the images can be used.
    """
    check_quantile(quantile)
    opened = open_images(images)
    seen = survey(as_committee(committee), opened, range(len(opened)))
    if not len(seen.spreads):
        raise UnusableImagesError("none of the images can be used to measure a spread")
    return float(np.quantile(seen.spreads, quantile))


def check_quantile(quantile: float) -> None:
    """Raise `InputError` for what is no part of a set."""
    if not 0.0 <= quantile <= 1.0:
        raise InputError(f"quantile is {quantile!r}: give a part of the images between 0 and 1")
