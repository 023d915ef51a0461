"""Images as arrays for training: features, derivatives and labels, atoms in rows.

The atoms of one element are neighbours, so that its network takes them as they lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ampmpi.entries import Fingerprint, FingerprintPrimes
from ampmpi.errors import ModelError
from ampmpi.model.layers import Array
from ampmpi.model.packed import PackedPrimes, join, pack
from ampmpi.model.scaling import Spread, spread_of

# Atoms of one batch: small enough for a core's cache, large enough for matrix products. Fewer,
# where derivatives take more bytes: while a batch is made, they are there twice.
BATCH_ATOMS = 1024
BATCH_BYTES = 16e6

PARTS = 3
"""A set has parts of 1/4, 1/16 and 1/64 of its images."""


def part_of(key: str) -> int:
    """Return the smallest part of a set that an image is in, by its hash: p stands for 1/4^p."""
    digits = int(key[:2], 16)
    return next((part for part in range(PARTS, 0, -1) if digits < 256 >> (2 * part)), 0)


@dataclass(frozen=True, eq=False)
class Sample:
    """One training image: its entry or entries and what is to be learnt.

    Attributes
    ----------
    key : str
        Hash of the image.
    fingerprint : Fingerprint
        Its features.
    primes : PackedPrimes, FingerprintPrimes or None
        Their derivatives, where forces are trained.
    energy : float, eV
        Reference energy.
    forces : (n_atoms, 3) float array, eV/Å, or None
        Reference forces; with `primes` but without them, the energy alone is trained.
    weight : float
        How often the image counts in the loss.
    only_atom : int
        Index of the one atom whose force is trained, without the energy; -1: train all.
    virial : (6,) float array, eV, or None
        Reference stress times the volume, in the order xx, yy, zz, yz, xz, xy; None: it is
        not trained.
    volume : float, Å³
        Volume of the cell, where there is a virial.
    strains : (n_atoms, 6, max_features) float array or None
        Derivatives of the features by strain, where there is a virial.
    energy_weight, stress_weight : float
        Weights of the squared errors of its energy and stress; 0: they are not trained.
    force_weights : (n_atoms,) float array or None
        Those of its atoms' forces; None: 1.
    """

    key: str
    fingerprint: Fingerprint
    primes: PackedPrimes | FingerprintPrimes | None
    energy: float
    forces: Array | None
    weight: float = 1.0
    only_atom: int = -1
    virial: Array | None = None
    volume: float = 1.0
    strains: Array | None = None
    energy_weight: float = 1.0
    force_weights: Array | None = None
    stress_weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images as arrays.

    Attributes
    ----------
    keys : tuple of str, length n_images
        Hashes of the images.
    n_atoms : (n_images,) int64 array
        Number of atoms of each image.
    image : (n_atoms,) int64 array
        Which image each atom is of.
    rows : mapping of str to slice
        Per element the rows of its atoms.
    features : mapping of str to (n_atoms of the element, n_features) float array
        Features, as the descriptor gives them.
    energies, weights : (n_images,) float arrays
        Reference energies in eV, and how often each image counts.
    energy_weights : (n_images,) float array
        The weight of each image's energy in the loss.
    energy_counts : (n_images,) float array
        How much it counts in the errors that are reported: `weights`, or 0 where it is not
        trained.
    forces : (n_atoms, 3) float array, eV/Å, or None
        Reference forces.
    force_weights : (n_atoms,) float array
        Weight of the squared length of each atom's force error in the loss: the image's weight
        over three times the number of its atoms, times the weight that was given to the atom.
    force_counts : (n_atoms,) float array
        Its weight in the errors that are reported: such that their sum is each image's mean
        squared component, of the atoms that are trained, times the image's weight.
    primes : PackedPrimes or None
        The derivatives; their atoms m and n are rows of the batch.
    virials : (n_images, 6) float array, eV, or None
        Reference stresses times volumes; None where no image has one.
    volumes : (n_images,) float array, Å³
        Volumes of the cells; 1 without a virial.
    stress_weights, stress_counts : (n_images,) float array
        The weight of each image's stress in the loss, and in the errors that are reported.
    strains : (n_atoms, 6, max_features) float array or None
        Derivatives of the features by strain; zeros where an image has no virial.
    """

    keys: tuple[str, ...]
    n_atoms: NDArray[np.int64]
    image: NDArray[np.int64]
    rows: Mapping[str, slice]
    features: Mapping[str, Array]
    energies: Array
    weights: Array
    energy_weights: Array
    energy_counts: Array
    forces: Array | None
    force_weights: Array
    force_counts: Array
    primes: PackedPrimes | None
    virials: Array | None
    volumes: Array
    stress_weights: Array
    stress_counts: Array
    strains: Array | None

    @property
    def part(self) -> int:
        """The smallest part of a set that all images are in; see `part_of`."""
        return min(map(part_of, self.keys))

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.keys)

    @property
    def max_features(self) -> int:
        """Largest number of features of an element; the width of the derivatives."""
        if self.primes is not None:
            width: int = self.primes.shape[2]
        else:
            width = max(values.shape[1] for values in self.features.values())
        return width

    def fprange(self) -> dict[str, Array]:
        """Smallest and largest value of each feature, by element: (n_features, 2) arrays."""
        return {
            element: np.stack([values.min(axis=0), values.max(axis=0)], axis=1)
            for element, values in self.features.items()
        }

    def spreads(self) -> dict[str, Spread]:
        """Mean and spread of the features, by element."""
        return {element: spread_of(values) for element, values in self.features.items()}

    def reweighted(self, weights: Array) -> Batch:
        """Return the batch with other image weights (n_images,); the arrays are shared."""
        ratio = weights / self.weights
        return replace(
            self,
            weights=weights,
            energy_weights=self.energy_weights * ratio,
            energy_counts=self.energy_counts * ratio,
            force_weights=self.force_weights * ratio[self.image],
            force_counts=self.force_counts * ratio[self.image],
            stress_weights=self.stress_weights * ratio,
            stress_counts=self.stress_counts * ratio,
        )

    def composition(self, elements: Sequence[str]) -> Array:
        """Return the number of atoms of each element in each image, (n_images, n_elements)."""
        counts = np.zeros((self.n_images, len(elements)))
        for e, element in enumerate(elements):
            if element in self.rows:
                image = self.image[self.rows[element]]
                counts[:, e] = np.bincount(image, minlength=self.n_images)
        return counts


def make_batch(samples: Sequence[Sample]) -> Batch:
    """Lay samples out as one batch; with forces when every sample has derivatives.

    The forces or virials of a sample that has none are zeros, and count for nothing.
    """
    n_atoms = np.array([len(sample.fingerprint.symbols) for sample in samples], dtype=np.int64)
    atom_start = np.concatenate([[0], np.cumsum(n_atoms)])
    symbols = np.array([s for sample in samples for s in sample.fingerprint.symbols])
    order = np.argsort(symbols, kind="stable")
    row_of = np.argsort(order)
    image = np.repeat(np.arange(len(samples)), n_atoms)
    rows, features = _by_element(samples, symbols, order)

    weights = np.array([sample.weight for sample in samples], dtype=float)
    only = np.array([sample.only_atom for sample in samples], dtype=np.int64)
    energy_counts = np.where(only < 0, weights, 0.0)
    energy_given = np.array([sample.energy_weight for sample in samples], dtype=float)
    force_weights, force_counts = _force_weights(samples, weights, only, n_atoms)

    primes_of = [sample.primes for sample in samples if sample.primes is not None]
    with_forces = len(primes_of) == len(samples)
    primes = _joined(primes_of, np.split(row_of, atom_start[1:-1])) if with_forces else None
    forces = [
        np.zeros((n, 3)) if s.forces is None else s.forces
        for s, n in zip(samples, n_atoms, strict=True)
        if with_forces
    ]
    with_virial = np.array([s.virial is not None and s.only_atom < 0 for s in samples])
    stress_counts = np.where(with_virial, weights, 0.0)
    stress_given = np.array([sample.stress_weight for sample in samples], dtype=float)
    virials = strains = None
    if with_virial.any():
        narrow = max(values.shape[1] for values in features.values())
        width = narrow if primes is None else primes.width
        virials, strains = _stack_strains(samples, with_virial, order, width)
    return Batch(
        keys=tuple(sample.key for sample in samples),
        n_atoms=n_atoms,
        image=image[order],
        rows=rows,
        features=features,
        energies=np.array([sample.energy for sample in samples], dtype=float),
        weights=weights,
        energy_weights=energy_counts * energy_given,
        energy_counts=np.where(energy_given > 0.0, energy_counts, 0.0),
        forces=np.concatenate(forces)[order] if with_forces else None,
        force_weights=force_weights[order],
        force_counts=force_counts[order],
        primes=primes,
        virials=virials,
        volumes=np.array([sample.volume for sample in samples], dtype=float),
        stress_weights=stress_counts * stress_given,
        stress_counts=np.where(stress_given > 0.0, stress_counts, 0.0),
        strains=strains,
    )


def make_batches(samples: Iterable[Sample], batch_atoms: int = BATCH_ATOMS) -> Iterator[Batch]:
    """Cut samples into batches of at most `batch_atoms` atoms and `BATCH_BYTES`, or of one image.

    A batch also ends where the images of another part of the set begin.

    A batch's samples are let go before the next one is asked for.
    """
    waiting: list[Sample] = []
    atoms = size = 0
    for sample in samples:
        n, taken = len(sample.fingerprint.symbols), _bytes_of(sample)
        full = atoms + n > batch_atoms or size + taken > BATCH_BYTES
        if waiting and (full or part_of(sample.key) != part_of(waiting[0].key)):
            batch = make_batch(waiting)
            waiting, atoms, size = [], 0, 0
            yield batch
            del batch
        waiting.append(sample)
        atoms, size = atoms + n, size + taken
    if waiting:
        yield make_batch(waiting)


def _bytes_of(sample: Sample) -> int:
    return 0 if sample.primes is None else sample.primes.values.nbytes


def _by_element(
    samples: Sequence[Sample], symbols: NDArray[np.str_], order: NDArray[np.int64]
) -> tuple[dict[str, slice], dict[str, Array]]:
    """Rows and features of each element; `order` sorts the atoms by element."""
    n_features: dict[str, int] = {}
    for sample in samples:
        for element, n in sample.fingerprint.n_features.items():
            if n_features.setdefault(element, n) != n:
                raise ModelError(
                    f"fingerprint {sample.key} has {n} features for {element} where others have "
                    f"{n_features[element]}: they come from different descriptors"
                )
    width = max(n_features.values(), default=0)
    values = np.zeros((len(symbols), width))
    start = 0
    for sample in samples:
        block = sample.fingerprint.values
        values[start : start + len(block), : block.shape[1]] = block
        start += len(block)
    values = values[order]
    elements, first, counts = np.unique(symbols[order], return_index=True, return_counts=True)
    rows = {
        str(element): slice(int(a), int(a + n))
        for element, a, n in zip(elements, first, counts, strict=True)
    }
    return rows, {
        element: np.ascontiguousarray(values[block, : n_features[element]])
        for element, block in rows.items()
    }


def _force_weights(
    samples: Sequence[Sample],
    weights: Array,
    only: NDArray[np.int64],
    n_atoms: NDArray[np.int64],
) -> tuple[Array, Array]:
    """Return how much the force on each atom counts in the loss, and in the reported errors."""
    image = np.repeat(np.arange(len(samples)), n_atoms)
    given = np.concatenate(
        [
            np.zeros(n) if s.forces is None else np.ones(n) if s.force_weights is None
            else s.force_weights
            for s, n in zip(samples, n_atoms.tolist(), strict=True)
        ]
    )  # fmt: skip
    trained = given > 0.0
    n_trained = np.maximum(np.bincount(image, weights=trained, minlength=len(samples)), 1.0)
    in_loss = np.where(only < 0, weights / (3.0 * n_atoms), 0.0)[image]
    in_errors = np.where(only < 0, weights / (3.0 * n_trained), 0.0)[image]
    alone = np.flatnonzero(only >= 0)
    atoms = np.concatenate([[0], np.cumsum(n_atoms)])[alone] + only[alone]
    in_loss[atoms] = in_errors[atoms] = weights[alone] / 3.0
    return in_loss * given, np.where(trained, in_errors, 0.0)


def _stack_strains(
    samples: Sequence[Sample],
    with_virial: NDArray[np.bool_],
    order: NDArray[np.int64],
    width: int,
) -> tuple[Array, Array]:
    """Return the virials of samples, and the derivatives by strain of all their atoms in rows."""
    virials, strains = np.zeros((len(samples), 6)), np.zeros((len(order), 6, width))
    start = 0
    for i, sample in enumerate(samples):
        stop = start + len(sample.fingerprint.symbols)
        if with_virial[i]:
            if sample.strains is None:
                raise ModelError(f"image {sample.key} has a virial, but no derivatives by strain")
            virials[i] = sample.virial
            strains[start:stop, :, : sample.strains.shape[2]] = sample.strains
        start = stop
    return virials, strains[order]


def _joined(
    blocks: Sequence[PackedPrimes | FingerprintPrimes], rows: Sequence[NDArray[np.int64]]
) -> PackedPrimes:
    """Pack what is not packed, and join all; the atoms become rows of the batch."""
    return join([b if isinstance(b, PackedPrimes) else pack(b) for b in blocks], rows)
