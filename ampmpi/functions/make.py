"""From images to the functions of a descriptor."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ampmpi.descriptor import Gaussian, make_default_symmetry_functions
from ampmpi.errors import ImageError, InputError
from ampmpi.functions.candidates import Function, make_candidates
from ampmpi.functions.choose import LinearError, Problem
from ampmpi.functions.moments import Sample, take_moments
from ampmpi.functions.sample import read_sample
from ampmpi.images.labels import LabelKeys
from ampmpi.parallel.comm import Communicator, as_communicator
from ampmpi.parallel.failure import abort_on_error, agree, on_all, share
from ampmpi.parallel.kernels import warm_up
from ampmpi.text import amount
from ampmpi.training.pool import open_pool, reusable

if TYPE_CHECKING:
    from ase import Atoms

SIZES = (8, 12, 16, 24, 32, 48)
"""Numbers of functions of each element for which errors and costs are shown."""

MOST_BY_DEFAULT = 32
"""Above this number a network gains little: what a linear model lacks, it makes itself."""

NEAR_BEST = 1.1
"""The default is the smallest number whose error is below so many times the best one."""

WITHOUT_LABELS = 24
"""Functions of each element by default, where there are no forces to compare with."""

FOLDS = 5


@dataclass(frozen=True)
class Point:
    """One row of the curve of error against cost.

    Attributes
    ----------
    n : int
        Functions of each element.
    error : LinearError
        Held-out errors of a linear model with them.
    cost : float
        Time of a fingerprint with derivatives, in units of the default functions'.
    """

    n: int
    error: LinearError
    cost: float


@dataclass(frozen=True, eq=False)
class FunctionChoice:
    """Functions made from images.

    Attributes
    ----------
    descriptor : Gaussian
        The descriptor with these functions.
    per_element : int
        Functions of each element that were asked for, or found best.
    curve : tuple of Point
        Errors and costs of several numbers of functions; empty without forces.
    n_images, n_atoms : int
        Images that were looked at closely, and their atoms.
    n_candidates : dict of str to int
        Candidates of each element.
    seconds, default_seconds : float
        Time of an image's fingerprint with derivatives, with these functions and with
        Amp's defaults.
    with_forces : bool
        Whether they were chosen by the forces of the images.
    """

    descriptor: Gaussian
    per_element: int
    curve: tuple[Point, ...]
    n_images: int
    n_atoms: int
    n_candidates: Mapping[str, int]
    seconds: float
    default_seconds: float
    with_forces: bool

    def lines(self) -> list[str]:
        """Return what the command prints: errors against cost, and what was chosen."""
        radius = self.descriptor.cutoff_radius
        looked_at = f"{amount(self.n_images, 'image')}, {amount(self.n_atoms, 'atom')}"
        found = [f"Looked at {looked_at}; cutoff {radius:g} Å", ""]
        if self.curve:
            found += [*self._curve(), ""]
        found.append("element  candidates  chosen  G2 (by neighbour), G4")
        for element, listed in sorted(self.descriptor.parameters["Gs"].items()):
            radial = [function["element"] for function in listed if function["type"] == "G2"]
            shares = ", ".join(f"{other} {radial.count(other)}" for other in sorted(set(radial)))
            found.append(
                f"{element:7}  {self.n_candidates[element]:10}  {len(listed):6}  "
                f"G2 {len(radial)} ({shares or 'none'}), G4 {len(listed) - len(radial)}"
            )
        return [
            *found,
            "",
            f"Fingerprint and derivatives of an image take {1e3 * self.seconds:.3g} ms; "
            f"with Amp's default functions {1e3 * self.default_seconds:.3g} ms",
        ]

    def _curve(self) -> list[str]:
        found = [
            "           held-out errors of a linear model    time, where the",
            "functions  energy, meV/atom     forces, meV/Å   defaults take 1",
        ]
        for point in self.curve:
            mark = "  chosen" if point.n == self.per_element else ""
            found.append(
                f"{point.n:9}  {1e3 * point.error.energy:16.3g}  {1e3 * point.error.force:16.3g}"
                f"  {point.cost:16.2f}{mark}"
            )
        return found


def make_functions(
    images: Any,
    per_element: int | None = None,
    cutoff: Any = 6.5,
    comm: Any = None,
    *,
    keys: LabelKeys | None = None,
    forces: bool = True,
    skip_unusable: bool = False,
) -> FunctionChoice:
    """Make symmetry functions that fit a set of images, alone or on all ranks.

    Parameters
    ----------
    images : file names or list of ase.Atoms
        The set, with energies and forces where it has them.
    per_element : int, optional
        Functions of each element. By default the smallest number whose held-out error in a
        linear model is within a tenth of the best.
    cutoff : float, Cosine or Polynomial
        Cutoff function, or its radius in Å.
    comm : communicator, optional
        The ranks; all of the job by default.
    keys : LabelKeys, optional
        Names of labels; those that are not given are found out.
    forces : bool
        Whether forces are trained; without, it does not matter whose they are.
    skip_unusable : bool
        Leave out images that cannot be read.

    Returns
    -------
    FunctionChoice
        The same on every rank.

    Raises
    ------
    InputError
        There is no image, or `per_element` is not a number of functions.
    ImageError
        An image cannot be read or used.
    """
    if per_element is not None and (not isinstance(per_element, int) or per_element < 1):
        raise InputError(f"per_element is {per_element!r}: give a number of functions, at least 1")
    ranks = as_communicator(comm)
    with abort_on_error(ranks):
        pool = open_pool(ranks, reusable(images))
        if not len(pool):
            raise share(InputError("there is no image to make functions for; give files or images"))
        choice = agree(ranks, lambda: pool.choose_labels(keys or LabelKeys(), forces))
        warm_up(ranks, "ampmpi.descriptor")
        elements, samples = read_sample(ranks, pool, choice.keys, skip_unusable=skip_unusable)
        return _make(ranks, elements, samples, per_element, cutoff)


def _make(
    comm: Communicator,
    elements: list[str],
    samples: list[Sample],
    per_element: int | None,
    cutoff: Any,
) -> FunctionChoice:
    sizes = [size for part in comm.allgather([len(s.atoms) for s in samples]) for size in part]
    defaults = Gaussian(cutoff=cutoff, elements=elements)
    shortest = _shortest(comm, defaults, samples)
    candidates = make_candidates(elements, shortest, defaults.cutoff_radius)
    for element, functions in make_default_symmetry_functions(elements).items():
        candidates[element] = candidates[element] or functions  # an atom without neighbours
    n_folds = min(FOLDS, len(sizes))
    moments = take_moments(comm, candidates, cutoff, samples, n_folds)
    some = comm.gather(samples[:1])

    def descriptor(problem: Problem, n: int) -> Gaussian:
        return Gaussian(cutoff=cutoff, Gs=_kept(candidates, problem.choose(n)))

    def choose() -> FunctionChoice:
        first = next(sample for part in some or () for sample in part)
        example, labelled = first.atoms, first.forces is not None
        problem = Problem(moments, labelled=labelled)
        default_seconds = seconds_of(defaults, example)
        curve = []
        if labelled and n_folds > 1:
            for n in SIZES:
                cost = seconds_of(descriptor(problem, n), example) / default_seconds
                curve.append(Point(n, problem.cross_validate(n), cost))
        n = per_element or default_number(curve)
        made = descriptor(problem, n)
        return FunctionChoice(
            made,
            n,
            tuple(curve),
            len(sizes),
            sum(sizes),
            {element: len(functions) for element, functions in candidates.items()},
            seconds_of(made, example),
            default_seconds,
            labelled,
        )

    return agree(comm, choose)


def default_number(curve: Sequence[Point]) -> int:
    """Return the smallest number of functions with which the forces are nearly as good as can be.

    More than `MOST_BY_DEFAULT` are never taken unasked.
    """
    points = [point for point in curve if point.n <= MOST_BY_DEFAULT]
    if not points:
        return WITHOUT_LABELS
    best = min(point.error.force for point in points)
    return next(point.n for point in points if point.error.force <= NEAR_BEST * best)


def seconds_of(descriptor: Gaussian, atoms: Atoms) -> float:
    """Return how long a fingerprint with its derivatives takes, s: the best of several trials."""
    found: list[float] = []
    while len(found) < 3 or (len(found) < 20 and sum(found) < 0.2):
        started = time.perf_counter()
        descriptor.calculate(atoms)
        found.append(time.perf_counter() - started)
    return min(found)


def _shortest(
    comm: Communicator, descriptor: Gaussian, samples: Iterable[Sample]
) -> dict[tuple[str, str], float]:
    """Return the shortest distance of each pair of elements that are neighbours, Å."""
    elements = descriptor.elements or ()
    squares = np.full((len(elements), len(elements)), np.inf)

    def look() -> None:
        for sample in samples:
            try:
                species, neighbors = descriptor.surroundings(sample.atoms)
            except ImageError as error:
                raise ImageError(f"{sample.name}: {error}") from error
            centre = np.repeat(species, np.diff(neighbors.start))
            np.minimum.at(squares, (centre, species[neighbors.neighbor]), neighbors.squares)

    on_all(comm, look)
    least = np.sqrt(np.min(comm.allgather(squares), axis=0))
    return {
        (elements[a], elements[b]): float(least[a, b]) for a, b in np.argwhere(np.isfinite(least))
    }


def _kept(candidates: Mapping[str, list[Function]], columns: Any) -> dict[str, list[Function]]:
    """Return the functions in the given columns, by element."""
    every = [(element, f) for element in sorted(candidates) for f in candidates[element]]
    found: dict[str, list[Function]] = {element: [] for element in sorted(candidates)}
    for column in columns:
        element, function = every[column]
        found[element].append(function)
    return found
