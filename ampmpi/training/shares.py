"""A rank's share of the images: their arrays, held in memory or read in every pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ampmpi.database import FingerprintDatabase
from ampmpi.descriptor import Gaussian
from ampmpi.entries import Fingerprint, FingerprintPrimes
from ampmpi.errors import CorruptEntryError, DatabaseError, InputError
from ampmpi.heap import keep_freed_memory
from ampmpi.model import LossFunction
from ampmpi.model.batch import Batch, Sample, make_batches
from ampmpi.model.layers import Array
from ampmpi.model.loss import ScaledBatch, scale_batch
from ampmpi.model.scaling import merge_ranges
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import on_all, share
from ampmpi.parallel.kernels import warm_up
from ampmpi.training.dataset import Dataset
from ampmpi.training.pool import Target


@dataclass(frozen=True, eq=False)
class Source:
    """Where a rank's share of fingerprints comes from.

    Attributes
    ----------
    fingerprints : str
        Path of the database of fingerprints.
    primes : str or None
        Path of the database of derivatives, where forces are trained.
    descriptor : Gaussian
        Whose fingerprints they are.
    recompute : bool
        Compute the derivatives of images that are at hand, instead of reading them.
    """

    fingerprints: str
    primes: str | None
    descriptor: Gaussian
    recompute: bool = False

    def samples(
        self, targets: Sequence[Target], only_atoms: Mapping[str, int], weights: Mapping[str, float]
    ) -> Iterator[Sample]:
        """Read the entries of `targets`, in their order, a few hundred at a time.

        Raises
        ------
        DatabaseError
            An entry is missing or does not fit its image.
        """
        features = self._open(self.fingerprints)
        derivatives = None
        if self.primes is not None and not self.recompute:
            derivatives = self._open(self.primes)
        width = max(self.descriptor.n_features.values())
        for some in _portions(targets, width if derivatives is not None else 0):
            keys = [t.key for t in some]
            found = _entries(features, keys)
            primes = None if derivatives is None else _entries(derivatives, keys)
            for t in some:
                first = found[t.key]
                second = None if primes is None else primes[t.key]
                if self.recompute and self.primes is not None:
                    second = self.descriptor.fingerprint_primes(t.atoms)
                if not isinstance(first, Fingerprint) or first.symbols != t.symbols:
                    raise CorruptEntryError(
                        f"entry {t.key} of {self.fingerprints} is not the fingerprint of its "
                        "image; run 'ampmpi check --repair' on it and start again"
                    )
                if second is not None and not isinstance(second, FingerprintPrimes):
                    raise CorruptEntryError(
                        f"entry {t.key} of {self.primes} holds no derivatives; run "
                        "'ampmpi check --repair' on it and start again"
                    )
                yield Sample(
                    t.key,
                    first,
                    second,
                    t.energy,
                    t.forces,
                    weights.get(t.key, 1.0),
                    only_atoms.get(t.key, -1),
                )

    def _open(self, path: str) -> FingerprintDatabase:
        """Open a database, and see that it is the descriptor's: another may have its name now."""
        database = FingerprintDatabase(path)
        manifest = database.manifest()
        if manifest is not None:
            database.claim(self.descriptor.parameters, self.descriptor.digest)
        return database


# Bytes of derivatives that are read at a time, and images at most.
READ_BYTES = 64e6
READ_IMAGES = 2048


def expected_pairs(n_atoms: int) -> float:
    """Return a rough number of pairs with derivatives: all in a cluster, neighbours in a bulk."""
    return float(n_atoms * min(n_atoms, 80))


def _portions(targets: Sequence[Target], width: int) -> Iterator[list[Target]]:
    """Cut targets into portions that are read together."""
    portion: list[Target] = []
    size = 0.0
    for seen in targets:
        portion.append(seen)
        size += expected_pairs(len(seen.symbols)) * 24 * width
        if size > READ_BYTES or len(portion) == READ_IMAGES:
            yield portion
            portion, size = [], 0.0
    if portion:
        yield portion


def entries_of(path: str, keys: Sequence[str]) -> dict[str, Any]:
    """Read entries of one database by key; `DatabaseError` where one is missing."""
    return _entries(FingerprintDatabase(path), keys)


def _entries(database: FingerprintDatabase, keys: Sequence[str]) -> dict[str, Any]:
    found = dict(database.get_many(keys))
    lacking = [key for key in keys if key not in found]
    if lacking:
        raise DatabaseError(
            f"{database.path} lacks the entry {lacking[0]} and {len(lacking) - 1} more, "
            "which were there a moment ago; start again to compute them"
        )
    return found


@dataclass(frozen=True, eq=False)
class StreamedShare:
    """A rank's images whose arrays do not fit: read from the database in each pass."""

    source: Source
    targets: Sequence[Target]
    only_atoms: Mapping[str, int]
    weights: Mapping[str, float]

    def __iter__(self) -> Iterator[Batch]:
        return make_batches(self.source.samples(self.targets, self.only_atoms, self.weights))


Share = list[Batch] | StreamedShare


@dataclass(frozen=True, eq=False)
class ScaledShare:
    """A streamed share with the features scaled for one model, and its images weighted for it."""

    share: Iterable[Batch]
    fpranges: Mapping[str, Array]
    weights: Mapping[str, float] | None

    def __iter__(self) -> Iterator[ScaledBatch]:
        for batch in self.share:
            if self.weights is not None:
                drawn = np.array([self.weights.get(key, 0.0) for key in batch.keys])
                batch = batch.reweighted(batch.weights * drawn)
            yield scale_batch(batch, self.fpranges)


def scaled(
    share: Share, fpranges: Mapping[str, Array], weights: Mapping[str, float] | None = None
) -> Iterable[ScaledBatch]:
    """Scale a share's features for one model, once where the arrays are held in memory.

    Parameters
    ----------
    share : Share
        The images.
    fpranges : mapping of str to (n_features, 2) float array
        Ranges that the model scales by.
    weights : mapping of str to float, optional
        How often each image counts; the others do not.
    """
    batches = ScaledShare(share, fpranges, weights)
    return list(batches) if isinstance(share, list) else batches


@dataclass(frozen=True, eq=False)
class Prepared:
    """A group's images, ready to be trained on.

    Attributes
    ----------
    dataset : Dataset
        What is known of all images.
    descriptor : Gaussian
        The descriptor, with its elements.
    training, validation : Share
        This rank's share of both sets.
    fprange : mapping of str to (n_features, 2) float array
        Ranges of the features over the training images of all ranks.
    """

    dataset: Dataset
    descriptor: Gaussian
    training: Share
    validation: Share
    fprange: Mapping[str, Array]


def load(
    comm: Communicator,
    dataset: Dataset,
    source: Source,
    lossfunction: LossFunction,
    *,
    resident: bool = True,
) -> Prepared:
    """Read this rank's share of a group's images from the database.

    Parameters
    ----------
    comm : Communicator
        The group.
    dataset, source
        The images and where their fingerprints are.
    lossfunction : LossFunction
        Says which images train a single force and how duplicates count.
    resident : bool
        Hold the arrays in memory; else they are read in every pass.

    Raises
    ------
    InputError
        ``nft_ids`` names an image or atom that is not there; every rank raises it.
    """
    keep_freed_memory()
    warm_up(comm, "ampmpi.model")
    only_atoms = dict(lossfunction.nft_ids or ())
    weights: dict[str, float] = {}
    if lossfunction.weight_duplicates:
        weights = {
            key.decode(): float(n)
            for key, n in zip(dataset.keys, dataset.copies, strict=True)
            if n > 1
        }
    unknown = sorted(set(only_atoms) - {key.decode() for key in dataset.keys})
    if unknown:
        raise share(
            InputError(f"nft_ids names the image {unknown[0]}, which is not among the images")
        )
    shares: list[Share] = []
    for which in (~dataset.validation, dataset.validation):
        targets = dataset.targets(comm, which, keep_atoms=source.recompute and not resident)
        on_all(comm, partial(_check_atoms, targets, only_atoms))
        if resident:
            shares.append(list(make_batches(source.samples(targets, only_atoms, weights))))
        else:
            shares.append(StreamedShare(source, targets, only_atoms, weights))
    ranges = merge_ranges([batch.fprange() for batch in shares[0]])
    fprange = merge_ranges(comm.allgather(ranges))
    return Prepared(dataset, source.descriptor, shares[0], shares[1], fprange)


def _check_atoms(targets: Sequence[Target], only_atoms: Mapping[str, int]) -> None:
    for seen in targets:
        if not -1 <= only_atoms.get(seen.key, -1) < len(seen.symbols):
            raise InputError(
                f"nft_ids names atom {only_atoms[seen.key]} of image {seen.key}, which has "
                f"{len(seen.symbols)} atoms"
            )
