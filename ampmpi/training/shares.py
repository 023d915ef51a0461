"""A rank's share of the images: their arrays, held in memory or read in every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import FingerprintDatabase
from ampmpi.descriptor import Descriptor, has_kernels, strain_derivatives
from ampmpi.entries import Entry, Fingerprint, FingerprintPrimes
from ampmpi.errors import CorruptEntryError, DatabaseError, InputError
from ampmpi.heap import give_back, keep_freed_memory
from ampmpi.images.weights import Weights
from ampmpi.model import LossFunction
from ampmpi.model.batch import Batch, Sample, make_batches, part_of
from ampmpi.model.inputs import Inputs
from ampmpi.model.layers import Array
from ampmpi.model.loss import ScaledBatch, scale_batch
from ampmpi.model.packed import PackedPrimes, pack
from ampmpi.model.scaling import Spread, merge_ranges, merge_spreads
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import on_all, share
from ampmpi.parallel.kernels import warm_up
from ampmpi.training.dataset import Dataset
from ampmpi.training.pool import Target

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Source:
    """Where a rank's share of fingerprints comes from."""

    fingerprints: str  # path of the database of fingerprints
    primes: str | None  # that of the derivatives, where forces are trained
    descriptor: Descriptor
    recompute: bool = False  # compute the derivatives anew instead of reading them

    def samples(
        self, targets: Sequence[Target], only_atoms: Mapping[str, int], weights: Mapping[str, float]
    ) -> Iterator[Sample]:
        """Read the entries of `targets`, in their order, a few hundred at a time.

        None is kept longer than whoever takes the sample does.
        """
        features = self._open(self.fingerprints)
        computed = self.primes is not None and self.recompute
        derivatives = None
        if self.primes is not None and not self.recompute:
            derivatives = self._open(self.primes)
        width = max(self.descriptor.n_features.values())
        for some in _portions(targets, width if derivatives is not None else 0):
            keys = [t.key for t in some]
            found = entries_of(features, keys)
            primes = {} if derivatives is None else entries_of(derivatives, keys, _packed)
            for t in some:
                first, second = found.pop(t.key), primes.pop(t.key, None)
                if computed:
                    second = pack(self.descriptor.fingerprint_primes(t.atoms))
                if not isinstance(first, Fingerprint) or first.symbols != t.symbols:
                    raise CorruptEntryError(
                        f"entry {t.key} of {self.fingerprints} is not the fingerprint of its "
                        "image; run 'ampmpi check --repair' on it and start again"
                    )
                if second is not None and not isinstance(second, PackedPrimes):
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
                    **({} if t.stress is None else self._stress_of(t)),
                    **({} if t.weights is None else _weights(t.weights)),
                )

    def _stress_of(self, target: Target) -> dict[str, Any]:
        """Return what a sample has for a stress; the derivatives are computed from the image."""
        assert target.stress is not None
        volume = abs(float(np.linalg.det(target.atoms.cell.array)))
        strains = strain_derivatives(self.descriptor, target.atoms)
        return {"virial": volume * target.stress, "volume": volume, "strains": strains}

    def _open(self, path: str) -> FingerprintDatabase:
        """Open a database, and see that it is the descriptor's: another may have its name now."""
        database = FingerprintDatabase(path)
        if database.manifest() is not None:
            database.claim(self.descriptor.parameters, self.descriptor.digest)
        return database


def _weights(given: Weights) -> dict[str, Any]:
    return {
        "energy_weight": given.energy,
        "force_weights": given.forces,
        "stress_weight": given.stress,
    }


# Bytes of derivatives that are read at a time, and images at most: few, since they are there
# beside the arrays that are made of them; not fewer, since loose entries are listed each time.
READ_BYTES = 32e6
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


def _packed(entry: Entry) -> Entry | PackedPrimes:
    return pack(entry) if isinstance(entry, FingerprintPrimes) else entry


def entries_of(
    database: FingerprintDatabase,
    keys: Sequence[str],
    take: Callable[[Entry], Any] = lambda entry: entry,
) -> dict[str, Any]:
    """Return what `take` makes of entries, by key; `DatabaseError` where one is missing."""
    found = {key: take(entry) for key, entry in database.get_many(keys)}
    lacking = [key for key in keys if key not in found]
    if lacking:
        raise DatabaseError(
            f"{database.path} lacks the entry {lacking[0]} and {len(lacking) - 1} more, "
            "which were there a moment ago; start again to compute them"
        )
    return found


class Passes(Generic[T]):
    """What does not fit into memory, and is made anew whenever it is iterated over."""

    def __init__(self, begin: Callable[[], Iterator[T]]) -> None:
        self.begin = begin

    def __iter__(self) -> Iterator[T]:
        return self.begin()


Share = list[Batch] | Passes[Batch]


def scaled(
    share: Share, inputs: Inputs, weights: Mapping[str, float] | None = None
) -> Iterable[ScaledBatch]:
    """Scale a share's features for one model, once where the arrays are held in memory.

    `weights` are, where they are given, how often each image counts.
    """

    def scale() -> Iterator[ScaledBatch]:
        for batch in share:
            if weights is not None:
                drawn = np.array([weights.get(key, 0.0) for key in batch.keys])
                batch = batch.reweighted(batch.weights * drawn)
            yield scale_batch(batch, inputs.ranges, inputs.dropped)

    return list(scale()) if isinstance(share, list) else Passes(scale)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A group's images, ready to be trained on."""

    dataset: Dataset
    descriptor: Descriptor  # with its elements
    training: Share  # this rank's
    validation: Share
    fprange: Mapping[str, Array]  # (n_features, 2), over the training images of all ranks
    spreads: Mapping[str, Spread]  # mean and deviation of the features, over the same


def load(
    comm: Communicator,
    dataset: Dataset,
    source: Source,
    lossfunction: LossFunction,
    *,
    resident: bool = True,
) -> Prepared:
    """Read this rank's share of a group's images from the database.

    The loss function says which images train a single force and how duplicates count.
    `resident` arrays are held in memory, others read in every pass.
    """
    give_back()
    keep_freed_memory()
    warm_up(comm, "ampmpi.model")
    if dataset.stress and has_kernels(source.descriptor):
        warm_up(comm, "ampmpi.descriptor.strain_warmup")
    keys = [key.decode() for key in dataset.keys]
    weights: dict[str, float] = {}
    if lossfunction.weight_duplicates:
        weights = dict(zip(keys, dataset.copies.astype(float).tolist(), strict=True))
    only_atoms = dict(lossfunction.nft_ids or ())
    unknown = sorted(set(only_atoms) - set(keys))
    if unknown:
        raise share(
            InputError(f"nft_ids names the image {unknown[0]}, which is not among the images")
        )
    training, validation = (
        _share(comm, dataset, source, which, only_atoms, weights, resident=resident)
        for which in (~dataset.validation, dataset.validation)
    )
    seen = [(batch.fprange(), batch.spreads()) for batch in training]
    mine = merge_ranges([one for one, _ in seen]), merge_spreads([one for _, one in seen])
    parts = comm.allgather(mine)
    fprange = merge_ranges([one for one, _ in parts])
    spreads = merge_spreads([one for _, one in parts])
    give_back()
    return Prepared(dataset, source.descriptor, training, validation, fprange, spreads)


def _share(
    comm: Communicator,
    dataset: Dataset,
    source: Source,
    which: NDArray[np.bool_],
    only_atoms: Mapping[str, int],
    weights: Mapping[str, float],
    *,
    resident: bool,
) -> Share:
    targets = dataset.targets(comm, which, keep_atoms=source.recompute and not resident)
    # small parts of the set come first, so that a pass over one of them ends early
    targets.sort(key=lambda target: -part_of(target.key))
    on_all(comm, partial(_check_atoms, targets, only_atoms))

    def batches() -> Iterator[Batch]:
        return make_batches(source.samples(targets, only_atoms, weights))

    if not resident:
        return Passes(batches)
    held = []
    for batch in batches():
        held.append(batch)
        give_back()  # what is freed between arrays that stay would add up
    return held


def _check_atoms(targets: Sequence[Target], only_atoms: Mapping[str, int]) -> None:
    for seen in targets:
        if not -1 <= only_atoms.get(seen.key, -1) < len(seen.symbols):
            raise InputError(
                f"nft_ids names atom {only_atoms[seen.key]} of image {seen.key}, which has "
                f"{len(seen.symbols)} atoms"
            )
