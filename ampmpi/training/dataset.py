"""The images of a training, over all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import ImageError, InputError
from ampmpi.model.layers import Array
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import on_all, share
from ampmpi.parallel.schedule import block, deal
from ampmpi.training.pool import Pool, Target, target

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class Dataset:
    """What every rank knows of the unique images of a training."""

    pool: Pool
    indices: NDArray[np.int64]  # of each unique image; of duplicates the last one counts
    keys: NDArray[np.bytes_]  # hashes
    copies: NDArray[np.int64]  # how often each image was given
    energies: Array  # eV
    elements: tuple[str, ...]  # sorted
    composition: Array  # (n_images, n_elements), number of atoms
    validation: NDArray[np.bool_]  # which images are kept for validation
    n_shared: int  # images that were given for validation, but are trained on
    forces: bool  # whether forces are trained
    digest: str  # changes with the training images, their energies and their forces
    validation_digest: str

    @property
    def n_atoms(self) -> Array:
        """Number of atoms of each image."""
        total: Array = self.composition.sum(axis=1)
        return total

    @property
    def n_training(self) -> int:
        """Number of images to train on."""
        return int((~self.validation).sum())

    @property
    def n_validation(self) -> int:
        """Number of images to validate on."""
        return int(self.validation.sum())

    def check_validation(self, known: Iterable[str] = ()) -> None:
        """Refuse elements that only images to validate on have and the model does not know."""
        trained = self.composition[~self.validation].any(axis=0)
        for column in np.flatnonzero(~trained):
            element = self.elements[column]
            if element not in known:
                holds = self.validation & (self.composition[:, column] > 0)
                name = self.pool.name(int(self.indices[holds].min()))
                raise share(
                    InputError(
                        f"{name} is to validate on and holds {element}, which no image to train "
                        "on does; give other images for validation, or another seed where they "
                        "are chosen at random"
                    )
                )

    def targets(
        self, comm: Communicator, which: NDArray[np.bool_], *, keep_atoms: bool = False
    ) -> list[Target]:
        """Read this rank's share of the images in `which`, dealt over `comm` by cost."""
        chosen = np.flatnonzero(which)
        owners = deal(self.n_atoms[chosen] ** 2, comm.size)
        mine = self.indices[chosen[owners == comm.rank]]

        def take() -> list[Target]:
            found = []
            for key, name, atoms in self.read(mine):
                seen = target(atoms, key, name, forces=self.forces)
                found.append(replace(seen, atoms=atoms) if keep_atoms else seen)
            return found

        return on_all(comm, take)

    def read(self, indices: NDArray[np.int64]) -> Iterator[tuple[str, str, Atoms]]:
        """Read images again that were surveyed, as hash, name and atoms, in ascending order."""
        key_of = dict(zip(self.indices.tolist(), self.keys.tolist(), strict=True))
        for index, key, name, atoms in self.pool.read(sorted(indices.tolist())):
            if key_of[index] != key.encode():
                raise ImageError(
                    f"{name} is not the same on every rank, or was changed meanwhile: give all "
                    "ranks the same images, from a file or with a seed for whatever is random in "
                    "them"
                )
            yield key, name, atoms


def survey(
    comm: Communicator,
    pool: Pool,
    *,
    forces: bool,
    fraction: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Look at every image once, each rank at its block, and tell all ranks.

    `fraction` of the images is chosen with `seed` for validation, where none were given for it.
    """

    def look() -> list[tuple[int, Target]]:
        return [
            (index, target(atoms, key, name, forces=forces))
            for index, key, name, atoms in pool.read(block(len(pool), comm.rank, comm.size))
        ]

    found = on_all(comm, look)
    symbols = sorted({s for _, seen in found for s in seen.symbols})
    elements = tuple(sorted({s for part in comm.allgather(symbols) for s in part}))
    composition = np.array(
        [[seen.symbols.count(e) for e in elements] for _, seen in found], dtype=float
    ).reshape(len(found), len(elements))
    parts = comm.allgather(
        (
            np.array([index for index, _ in found], dtype=np.int64),
            np.array([seen.key for _, seen in found], dtype="S32"),
            np.array([seen.energy for _, seen in found], dtype=float),
            composition,
            np.array([seen.digest() for _, seen in found], dtype="V16"),
        )
    )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    indices, keys = columns[:2]
    given = pool.given_for_validation
    repeated = (indices >= given.start) & np.isin(keys, keys[indices < given.start])
    n_shared = len(np.unique(keys[repeated]))
    indices, keys, energies, composition, digests = (column[~repeated] for column in columns)
    _, first, copies = np.unique(keys, return_index=True, return_counts=True)
    _, from_end = np.unique(keys[::-1], return_index=True)
    order = np.argsort(first, kind="stable")
    first, last, copies = first[order], (len(keys) - 1 - from_end)[order], copies[order]
    in_validation = indices[first] >= given.start
    if not given:
        # By hash: whatever the order of the images is, the same ones are chosen.
        in_validation = np.empty(len(last), bool)
        chosen = on_all(comm, partial(validation_split, len(last), fraction, seed))
        in_validation[np.argsort(keys[last])] = chosen
    if not len(last) or in_validation.all():
        raise share(InputError("there is no image to train on; give files or a list of images"))
    if n_shared and not in_validation.any():
        raise share(
            InputError(
                "all images given for validation are among those to train on; give images that "
                "are not trained on"
            )
        )
    digests = digests[last]
    return Dataset(
        pool=pool,
        indices=indices[last],
        keys=keys[last],
        copies=copies,
        energies=energies[last],
        elements=elements,
        composition=composition[last],
        validation=in_validation,
        n_shared=n_shared,
        forces=forces,
        digest=_combined(digests[~in_validation]),
        validation_digest=_combined(digests[in_validation]),
    )


def _combined(digests: NDArray[Any]) -> str:
    """Add up digests of 16 bytes to one that does not depend on their order."""
    total: NDArray[np.uint64] = digests.view(np.uint64).reshape(-1, 2).sum(axis=0, dtype=np.uint64)
    return total.tobytes().hex()


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
