"""The images of a training: what is known of all, and the arrays of a rank's share."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import FingerprintDatabase
from ampmpi.descriptor import Gaussian
from ampmpi.entries import Fingerprint, FingerprintPrimes
from ampmpi.errors import CorruptEntryError, DatabaseError, ImageError, InputError
from ampmpi.model.batch import Batch, Sample, make_batches
from ampmpi.model.layers import Array
from ampmpi.model.loss import ScaledBatch, scale_batch


@dataclass(frozen=True, eq=False)
class Target:
    """What one image is to teach.

    Attributes
    ----------
    key : str
        Hash of the image.
    symbols : tuple of str
        Its atoms.
    energy : float, eV
        Reference energy.
    forces : (n_atoms, 3) float array, eV/Å, or None
        Reference forces, where they are trained.
    atoms : ase.Atoms or None
        The image, where its derivatives are computed anew in each pass.
    """

    key: str
    symbols: tuple[str, ...]
    energy: float
    forces: Array | None
    atoms: Any = None

    def digest(self) -> bytes:
        """Return 16 bytes that change with anything that the training sees."""
        text = f"{self.key} {self.energy!r}".encode()
        data = b"" if self.forces is None else np.ascontiguousarray(self.forces).tobytes()
        return hashlib.md5(text + data, usedforsecurity=False).digest()


def target(atoms: Any, key: str, name: str, *, forces: bool) -> Target:
    """Take an image's energy and forces, without its constraints, as Amp does.

    Raises
    ------
    ImageError
        They are missing or not finite.
    """
    from ase.calculators.calculator import PropertyNotImplementedError

    reference = None
    try:
        energy = float(atoms.get_potential_energy(apply_constraint=False))
    except (RuntimeError, PropertyNotImplementedError) as error:
        raise ImageError(
            f"{name} has no energy; a training needs images that were calculated"
        ) from error
    if forces:
        try:
            reference = np.array(atoms.get_forces(apply_constraint=False), dtype=np.float64)
        except (RuntimeError, PropertyNotImplementedError) as error:
            raise ImageError(
                f"{name} has no forces; train energies alone with --no-forces, or in a script "
                "without force criteria"
            ) from error
        if not np.isfinite(reference).all():
            raise ImageError(f"{name} has forces that are not finite; take it out of the set")
    if not math.isfinite(energy):
        raise ImageError(f"{name} has the energy {energy}; take it out of the set")
    return Target(key, tuple(atoms.get_chemical_symbols()), energy, reference)


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
        features = FingerprintDatabase(self.fingerprints)
        derivatives = None
        if self.primes is not None and not self.recompute:
            derivatives = FingerprintDatabase(self.primes)
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


class ResidentShare:
    """A rank's images, held in memory as batches."""

    def __init__(self, samples: Iterator[Sample]) -> None:
        self.batches = list(make_batches(samples))

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


class StreamedShare:
    """A rank's images whose arrays do not fit: read from the database in each pass."""

    def __init__(
        self,
        source: Source,
        targets: Sequence[Target],
        only_atoms: Mapping[str, int],
        weights: Mapping[str, float],
    ) -> None:
        self.source = source
        self.targets = targets
        self.only_atoms = only_atoms
        self.weights = weights

    def __iter__(self) -> Iterator[Batch]:
        return make_batches(self.source.samples(self.targets, self.only_atoms, self.weights))


Share = ResidentShare | StreamedShare


class ScaledShare:
    """A share with the features scaled for one model, and its images weighted for it."""

    def __init__(
        self,
        share: Share,
        fpranges: Mapping[str, Array],
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.share = share
        self.fpranges = fpranges
        self.weights = weights
        self._kept = list(self._scaled()) if isinstance(share, ResidentShare) else None

    def __iter__(self) -> Iterator[ScaledBatch]:
        return iter(self._kept) if self._kept is not None else self._scaled()

    def _scaled(self) -> Iterator[ScaledBatch]:
        for batch in self.share:
            if self.weights is not None:
                drawn = np.array([self.weights.get(key, 0.0) for key in batch.keys])
                batch = batch.reweighted(batch.weights * drawn)
            yield scale_batch(batch, self.fpranges)


def combine_digests(digests: Sequence[bytes]) -> bytes:
    """Combine digests of images to one that does not depend on their order."""
    total = np.zeros(2, dtype=np.uint64)
    for digest in digests:
        with np.errstate(over="ignore"):
            total += np.frombuffer(digest, dtype=np.uint64)
    return total.tobytes()


def validation_split(n: int, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Choose images for validation at random: True for about ``fraction * n`` of them."""
    if not (isinstance(fraction, Real) and 0.0 <= fraction < 1.0):
        raise InputError(f"validation fraction is {fraction!r}; it must be at least 0 and below 1")
    if not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"the seed of the validation set is {seed!r}; give a number of at least 0")
    chosen = np.zeros(n, dtype=bool)
    count = round(fraction * n)
    if fraction > 0.0 and not 0 < count < n:
        raise InputError(
            f"a validation fraction of {fraction} leaves {n - count} of {n} images to train on "
            f"and {count} to validate; give more images or another fraction"
        )
    chosen[np.random.default_rng(seed).permutation(n)[:count]] = True
    return chosen
