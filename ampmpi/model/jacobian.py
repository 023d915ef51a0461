"""The Gauss-Newton matrix of a loss on the images of one rank.

The loss is half the squared length of a vector of residuals r, among them for each image and
each component of a force

    √(2 c_E w) (E - E_ref) / N   and   √(2 c_F w / (3 N)) (F_md - F_md,ref),

and for each component of a stress, of which those off the diagonal count twice,

    √(2 c_S w / 9) V (σ_ab - σ_ab,ref) / N,

so that with J = dr/dθ its gradient is Jᵀr, and JᵀJ is its Hessian where the residuals are small
or the model is nearly linear in its parameters θ (Nocedal and Wright, Numerical Optimization,
2nd ed., 2006, section 10.3). JᵀJ is added up over all energies and stresses and the forces on
some of the atoms. Which atoms these are depends on the images, a seed and a round, on nothing
else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampmpi.model.batch import Batch
from ampmpi.model.layers import (
    Array,
    ElementParameters,
    energy_rows,
    forward,
    sensitivities,
    tangent_rows,
)
from ampmpi.model.loss import COMPONENTS, Coefficients, ScaledBatch
from ampmpi.model.network import Network

ROWS = 192
"""Rows that are made at a time, and multiplied with each other by one call of the BLAS."""


@dataclass(frozen=True)
class Sampling:
    """Atoms whose forces are taken.

    Attributes
    ----------
    fraction : float
        How many of them; their rows are scaled up accordingly.
    seed, round : int
        Another of either takes other atoms.
    """

    fraction: float = 1.0
    seed: int = 0
    round: int = 0

    def chosen(self, batch: Batch) -> NDArray[np.bool_]:
        """Which atoms of a batch are taken, (n_atoms,): of each image the same in any batch."""
        if self.fraction >= 1.0:
            return np.ones(len(batch.image), dtype=bool)
        order = np.argsort(batch.image, kind="stable")
        start = np.concatenate([[0], np.cumsum(batch.n_atoms)])[:-1]
        place = np.empty(len(order), np.uint64)
        place[order] = np.arange(len(order)) - np.repeat(start, batch.n_atoms)
        keys = np.array([int(key[:16], 16) ^ int(key[16:], 16) for key in batch.keys], np.uint64)
        number = _mixed(np.array([self.seed, self.round], np.uint64))
        drawn = _mixed(_mixed(keys ^ number[0])[batch.image] ^ _mixed(place + number[1]))
        return drawn < np.uint64(self.fraction * 2.0**64)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return random bits for each number (splitmix64; Steele et al., OOPSLA 2014)."""
    z = numbers + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def matrix_bytes(network: Network) -> float:
    """Return how many bytes the Gauss-Newton matrix of a network takes."""
    n = network.n_parameters
    return 8.0 * sum(len(range(*block.indices(n))) ** 2 for block in network.curvature_blocks)


def gauss_newton(
    network: Network,
    vector: Array,
    batches: Iterable[ScaledBatch],
    coefficients: Coefficients,
    sampling: Sampling,
) -> list[Array]:
    """Add up JᵀJ over one rank's images, without the `overfit` term.

    Parameters
    ----------
    network : Network
        Shape of the model.
    vector : (n_parameters,) float array
        Its parameters.
    batches : iterable of ScaledBatch
        The images; one batch is held at a time.
    coefficients : Coefficients
        Weights of the terms.
    sampling : Sampling
        Whose forces are taken.

    Returns
    -------
    list of (n, n) float arrays
        The matrix, or its blocks on the diagonal, for each of ``network.curvature_blocks``: in
        the lower triangle, column by column, with zeros above the diagonal.
    """
    from scipy.linalg.blas import dsyrk

    blocks = network.curvature_blocks
    sizes = [len(range(*block.indices(network.n_parameters))) for block in blocks]
    matrices = [np.zeros((n, n), order="F") for n in sizes]
    for scaled in batches:
        for rows in jacobian(network, vector, scaled, coefficients, sampling):
            for block, matrix in zip(blocks, matrices, strict=True):
                part = np.asfortranarray(rows[:, block].T)
                dsyrk(1.0, part, 1.0, matrix, lower=1, overwrite_c=1)
    return matrices


def jacobian(
    network: Network,
    vector: Array,
    scaled: ScaledBatch,
    coefficients: Coefficients,
    sampling: Sampling,
) -> Iterator[Array]:
    """Yield rows of J of one batch, some (n_rows, n_parameters) at a time.

    First come the images that have a weight, in their order, then for each atom that is taken
    the three components of its force, then the six of the stress of each image that has one.
    What is yielded is overwritten by the next.
    """
    batch = scaled.batch
    passed = _Passed.through(network, vector, scaled)
    buffer = np.empty((ROWS, network.n_parameters))
    weights = np.sqrt(2.0 * coefficients.energy * batch.energy_weights) / batch.n_atoms
    yield from passed.energy_rows(weights, buffer)
    if coefficients.force is not None and batch.primes is not None:
        scales = np.sqrt(2.0 * coefficients.force * batch.force_weights / sampling.fraction)
        taken = np.flatnonzero(sampling.chosen(batch) & (scales > 0.0))
        yield from passed.force_rows(taken, scales, buffer)
    if coefficients.stress is not None and batch.strains is not None:
        weights = np.sqrt(2.0 * coefficients.stress * batch.stress_weights) / batch.n_atoms
        yield from passed.stress_rows(weights, buffer)


class _Element(NamedTuple):
    """The atoms of one element after a pass through their network."""

    parameters: ElementParameters
    x: Array
    values: Array
    by_value: Array
    by_net: Array
    factor: Array
    columns: NDArray[np.int64]  # of the first weight and the intercept
    rows: slice  # of its atoms


@dataclass(frozen=True, eq=False)
class _Passed:
    """A batch after a pass through the networks."""

    batch: Batch
    elements: Mapping[str, _Element]
    activation: int

    @classmethod
    def through(cls, network: Network, vector: Array, scaled: ScaledBatch) -> _Passed:
        activation, elements = network.activation_index, {}
        parameters, columns = network.split(vector), network.columns
        for e, rows in scaled.batch.rows.items():
            values, _ = forward(parameters[e], scaled.x[e], activation)
            by_value, by_net = sensitivities(parameters[e], values, activation)
            elements[e] = _Element(
                parameters[e], scaled.x[e], values, by_value, by_net, scaled.factors[e],
                columns[e], rows,
            )  # fmt: skip
        return cls(scaled.batch, elements, activation)

    def energy_rows(self, weights: Array, buffer: Array) -> Iterator[Array]:
        """Yield the rows of images whose weight is not zero."""
        images = np.flatnonzero(weights)
        for first in range(0, len(images), len(buffer)):
            some = images[first : first + len(buffer)]
            rows = buffer[: len(some)]
            rows[:] = 0.0
            for one in self.elements.values():
                image = self.batch.image[one.rows]
                # images between two of those taken have no weight: their atoms are left out
                starts = np.searchsorted(image, some)
                ends = np.searchsorted(image, some, side="right")
                energy_rows(
                    one.parameters, one.x, one.values, one.by_net, starts, ends, weights[some],
                    rows, one.columns,
                )  # fmt: skip
            yield rows

    def force_rows(self, atoms: NDArray[np.int64], scales: Array, buffer: Array) -> Iterator[Array]:
        """Yield three rows for each of some atoms, whose `scales` stand for their weights."""
        batch, step = self.batch, len(buffer) // 3
        assert batch.primes is not None
        number = np.full(len(batch.image), -1, np.int64)
        number[atoms] = np.arange(len(atoms))
        pairs = np.flatnonzero(number[batch.primes.moved] >= 0)
        group = number[batch.primes.moved[pairs]]
        for first in range(0, len(atoms), step):
            some = atoms[first : first + step]
            rows = buffer[: 3 * len(some)]
            rows[:] = 0.0
            here = (group >= first) & (group < first + step)
            mine, which = pairs[here], group[here] - first
            weights = -scales[some][which, np.newaxis, np.newaxis]
            self._add_rows(batch.primes.centres[mine], which, weights * batch.primes[mine], rows)
            yield rows

    def stress_rows(self, weights: Array, buffer: Array) -> Iterator[Array]:
        """Yield six rows for each image whose weight is not zero."""
        batch, step = self.batch, len(buffer) // 6
        assert batch.strains is not None
        images = np.flatnonzero(weights)
        number = np.full(batch.n_images, -1, np.int64)
        number[images] = np.arange(len(images))
        for first in range(0, len(images), step):
            some = images[first : first + step]
            rows = buffer[: 6 * len(some)]
            rows[:] = 0.0
            group = number[batch.image]
            atoms = np.flatnonzero((group >= first) & (group < first + step)).astype(np.int32)
            which = group[atoms] - first
            scales = weights[batch.image[atoms], np.newaxis] * np.sqrt(COMPONENTS)
            self._add_rows(atoms, which, batch.strains[atoms] * scales[:, :, np.newaxis], rows)
            yield rows

    def _add_rows(
        self,
        atoms: NDArray[np.integer[Any]],
        group: NDArray[np.int64],
        directions: Array,
        rows: Array,
    ) -> None:
        """Add the gradients of sums of directional derivatives of atomic energies.

        A row is one component of a group's sum: of the force on an atom, to which each pair adds
        a term. What else is linear in dE/dG, such as a stress, has rows of the same kind.

        Parameters
        ----------
        atoms : (n_terms,) int array
            The atom whose energy each term is about.
        group : (n_terms,) int array
            The group that each term belongs to.
        directions : (n_terms, n_components, max_features) float array
            The directions.
        rows : (n_groups · n_components, n_parameters) float array
            Added to.
        """
        groups = np.arange(len(rows) // directions.shape[1] + 1)
        for one in self.elements.values():
            here = np.flatnonzero((atoms >= one.rows.start) & (atoms < one.rows.stop))
            here = here[np.argsort(group[here], kind="stable")]
            tangent_rows(
                one.parameters, one.x, one.values, one.by_value, one.by_net, one.factor,
                self.activation, atoms[here] - one.rows.start, directions[here],
                np.searchsorted(group[here], groups), rows, one.columns,
            )  # fmt: skip
