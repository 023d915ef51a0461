"""The loss of images whose fingerprints are at hand, for scripts that take a training apart.

A training itself has its arrays on all ranks and needs none of this. Here every rank that
calls does the whole work, so that nothing has to be agreed on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ampmpi.entries import Fingerprint, FingerprintPrimes
from ampmpi.errors import ModelError
from ampmpi.model.batch import Sample, make_batches
from ampmpi.model.layers import Array
from ampmpi.model.loss import LossTerms, ScaledBatch, loss_sums, overfit_term, scale_batch
from ampmpi.model.scaling import merge_ranges
from ampmpi.parameters import plain

if TYPE_CHECKING:
    from ampmpi.model.neuralnetwork import NeuralNetwork
    from ampmpi.model.settings import LossFunction


def fingerprint_of(given: Any) -> Fingerprint:
    """Return a fingerprint in Amp's form, ``[(symbol, values), …]``, as arrays.

    Raises
    ------
    ModelError
        It has another form.
    """
    if isinstance(given, Fingerprint):
        return given
    try:
        symbols = tuple(str(symbol) for symbol, _ in given)
        rows = [np.asarray(values, dtype=float) for _, values in given]
        values = np.zeros((len(rows), max(len(row) for row in rows)))
        for i, row in enumerate(rows):
            values[i, : len(row)] = row
    except (TypeError, ValueError) as error:
        raise ModelError(
            "a fingerprint is a list of (symbol, values) for each atom, as Amp's descriptors give "
            "it; this one is not"
        ) from error
    return Fingerprint(symbols, {s: len(r) for s, r in zip(symbols, rows, strict=True)}, values)


def primes_of(given: Any, fingerprint: Fingerprint) -> FingerprintPrimes:
    """Return derivatives in Amp's form, ``{(m, symbol, n, symbol, d): values, …}``, as arrays.

    Raises
    ------
    ModelError
        They have another form, or are not those of the fingerprint.
    """
    if isinstance(given, FingerprintPrimes):
        return given
    try:
        pairs = sorted({(n, m) for m, _, n, _, _ in given})
        place = {pair: i for i, pair in enumerate(pairs)}
        values = np.zeros((len(pairs), 3, fingerprint.values.shape[1]))
        for (m, _, n, _, d), derivative in given.items():
            values[place[n, m], d, : len(derivative)] = derivative
        moved = np.array([(m, n) for n, m in pairs], dtype=np.int32).reshape(-1, 2)
        if len(moved) and not 0 <= moved.min() <= moved.max() < len(fingerprint.symbols):
            raise ValueError("an atom that the fingerprint lacks")
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(
            "fingerprint primes are a dict from (index, symbol, neighbour's index, its symbol, "
            "direction) to derivatives, as Amp's descriptors give it, of the same atoms as the "
            "fingerprint; these are not"
        ) from error
    return FingerprintPrimes(fingerprint.symbols, fingerprint.n_features, moved, values)


def entry_of(entries: Mapping[str, Any], key: str, what: str) -> Any:
    """Return what a descriptor has for an image: our arrays where it has them, else Amp's form."""
    try:
        return entries.entry(key) if hasattr(entries, "entry") else entries[key]
    except KeyError:
        raise ModelError(
            f"the descriptor has no {what} of the image {key}; call calculate_fingerprints with "
            "the images first"
        ) from None


class ImagesAtHand:
    """Images with fingerprints and, where forces are trained, their derivatives.

    Parameters
    ----------
    images : mapping of str to ase.Atoms
        Hashed images, with energies and forces.
    fingerprints : mapping
        What the descriptor has for each.
    primes : mapping, optional
        The derivatives, where forces are trained.
    weight_duplicates : bool
        Count an image as often as it was given.
    nft_ids : sequence of (hash, atom index)
        Images that train a single force.
    descriptor : Descriptor, optional
        Where stresses are trained, what gives the derivatives by strain.
    """

    def __init__(
        self,
        images: Mapping[str, Any],
        fingerprints: Mapping[str, Any],
        primes: Mapping[str, Any] | None = None,
        *,
        weight_duplicates: bool = False,
        nft_ids: Sequence[tuple[str, int]] = (),
        descriptor: Any = None,
    ) -> None:
        forces = primes is not None
        copies: Mapping[str, float] = {}
        if weight_duplicates:
            copies = getattr(images, "metadata", {}).get("duplicates", {})
        alone = dict(nft_ids)

        def samples() -> Iterator[Sample]:
            for key, atoms in images.items():
                values = fingerprint_of(entry_of(fingerprints, key, "fingerprint"))
                derivatives = None
                if primes is not None:
                    derivatives = primes_of(entry_of(primes, key, "fingerprint primes"), values)
                yield Sample(
                    key,
                    values,
                    derivatives,
                    float(atoms.get_potential_energy(apply_constraint=False)),
                    np.array(atoms.get_forces(apply_constraint=False)) if forces else None,
                    float(copies.get(key, 1.0)),
                    alone.get(key, -1),
                    *_stress_of(atoms, descriptor),
                )

        self.batches = list(make_batches(samples()))
        self.n_images = len(images)
        stresses = (np.count_nonzero(batch.stress_weights) for batch in self.batches)
        self.n_stresses = sum(map(int, stresses))
        self._ranges: Any = None
        self._scaled: list[ScaledBatch] = []

    def scaled(self, model: NeuralNetwork) -> list[ScaledBatch]:
        """Scale the features for a model; anew only where its ranges are others."""
        ranges = model.fprange
        assert ranges is not None
        if plain(ranges) != self._ranges:
            self._ranges = plain(ranges)
            self._scaled = [scale_batch(batch, ranges) for batch in self.batches]
        return self._scaled

    def fprange(self) -> dict[str, Array]:
        """Range of each feature, by element: (n_features, 2) arrays."""
        return merge_ranges([batch.fprange() for batch in self.batches])

    def energies(self) -> Array:
        """Energies in eV, (n_images,)."""
        return np.concatenate([batch.energies for batch in self.batches])

    def composition(self, elements: list[str]) -> Array:
        """Return the number of atoms of each element, (n_images, n_elements)."""
        return np.concatenate([batch.composition(elements) for batch in self.batches])


def _stress_of(atoms: Any, descriptor: Any) -> tuple[Array, float, Array] | tuple[()]:
    """Return virial, volume and derivatives by strain, where these are wanted and it has a cell."""
    if descriptor is None or atoms.cell.rank < 3:
        return ()
    volume = float(atoms.cell.volume)
    stress = np.array(atoms.get_stress(apply_constraint=False))
    return volume * stress, volume, descriptor.strain_derivatives(atoms)


def loss_terms(
    model: NeuralNetwork,
    lossfunction: LossFunction,
    scaled: list[ScaledBatch],
    vector: Array,
    *,
    gradient: bool,
) -> LossTerms:
    """Return the loss at a point, with its parts and, where it is asked for, its gradient."""
    network, coefficients = model.network, lossfunction.coefficients

    def value_of(point: Array) -> float:
        return coefficients.weighted(
            loss_sums(network, point, scaled, coefficients, gradient=False)
        )

    d = lossfunction.d
    sums = loss_sums(network, vector, scaled, coefficients, gradient=gradient and d is None)
    penalty, penalty_gradient = overfit_term(network, vector, coefficients.overfit)
    total = coefficients.weighted(sums) + penalty
    slope = None
    if gradient:
        slope = sums.gradient if d is None else numerical_gradient(value_of, vector, d)
        slope = slope + penalty_gradient
    return LossTerms(
        total, sums.energy, sums.force, sums.energy_maxresid, sums.force_maxresid, slope,
        sums.stress, sums.stress_squares, sums.stress_maxresid, sums.energy_squares,
        sums.force_squares,
    )  # fmt: skip


def numerical_gradient(value_of: Any, vector: Array, d: float) -> Array:
    """Return the gradient of a function of a vector by central differences of the step `d`."""
    gradient = np.empty_like(vector)
    for i in range(len(vector)):
        shift = np.zeros_like(vector)
        shift[i] = d
        gradient[i] = (value_of(vector + shift) - value_of(vector - shift)) / (2.0 * d)
    return gradient


def meets(lossfunction: LossFunction, terms: LossTerms, n_images: int, n_stresses: int = 0) -> bool:
    """Whether the loss meets every criterion, with rmse as Amp takes them over all images.

    That of the stress is over the `n_stresses` images that have one.
    """
    reached = {
        "energy_rmse": math.sqrt(terms.energy_loss / n_images),
        "energy_maxresid": terms.energy_maxresid,
    }
    if lossfunction.trains_forces:
        reached["force_rmse"] = math.sqrt(terms.force_loss / n_images)
        reached["force_maxresid"] = terms.force_maxresid
    if lossfunction.trains_stress:
        reached["stress_rmse"] = math.sqrt(terms.stress_squares / max(n_stresses, 1))
        reached["stress_maxresid"] = terms.stress_maxresid
    limits = lossfunction.convergence
    return all(
        limits.get(name) is None or value <= float(limits[name]) for name, value in reached.items()
    )
