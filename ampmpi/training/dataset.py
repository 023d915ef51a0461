"""The images of a training, over all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from numbers import Integral, Real
from typing import TYPE_CHECKING

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
    """What every rank knows of the unique images of a training.

    Attributes
    ----------
    pool : Pool
        The images.
    indices : (n_images,) int array
        Index of each unique image; of duplicates the last one counts.
    keys : (n_images,) bytes array
        Hashes.
    copies : (n_images,) int array
        How often each image was given.
    energies : (n_images,) float array, eV
        Reference energies.
    elements : tuple of str
        Elements of the set, sorted.
    composition : (n_images, n_elements) float array
        Number of atoms of each element.
    validation : (n_images,) bool array
        Which images are kept for validation.
    n_shared : int
        Images that were given for validation and are left out there, as they are trained on.
    forces : bool
        Whether forces are trained.
    digest, validation_digest : str
        Change with the images of each set, their energies and their forces.
    """

    pool: Pool
    indices: NDArray[np.int64]
    keys: NDArray[np.bytes_]
    copies: NDArray[np.int64]
    energies: Array
    elements: tuple[str, ...]
    composition: Array
    validation: NDArray[np.bool_]
    n_shared: int
    forces: bool
    digest: str
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

    @property
    def remark(self) -> str | None:
        """What the user should know of these images."""
        if not self.n_shared:
            return None
        return (
            f"{self.n_shared} of the images given for validation are among those to train on: "
            "they are trained on, and left out of the validation"
        )

    def check_validation(self, known: Iterable[str] = ()) -> None:
        """Check that the images to train on have all elements of those to validate on.

        Parameters
        ----------
        known : iterable of str
            Elements that the model knows already.

        Raises
        ------
        InputError
            They lack one; every rank raises it.
        """
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
            return [
                replace(
                    target(atoms, key, name, forces=self.forces),
                    atoms=atoms if keep_atoms else None,
                )
                for key, name, atoms in self.read(mine)
            ]

        return on_all(comm, take)

    def read(self, indices: NDArray[np.int64]) -> Iterator[tuple[str, str, Atoms]]:
        """Read images again that were surveyed, as hash, name and atoms, in ascending order.

        Raises
        ------
        ImageError
            An image cannot be read, or is not the one that a rank has surveyed.
        """
        for index, key, name, atoms in self.pool.read(sorted(indices.tolist())):
            if self._key_of[index] != key.encode():
                raise ImageError(
                    f"{name} is not the same on every rank, or was changed meanwhile: give all "
                    "ranks the same images, from a file or with a seed for whatever is random in "
                    "them"
                )
            yield key, name, atoms

    @cached_property
    def _key_of(self) -> dict[int, bytes]:
        return dict(zip(self.indices.tolist(), self.keys.tolist(), strict=True))


def survey(
    comm: Communicator,
    pool: Pool,
    *,
    forces: bool,
    fraction: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Look at every image once, each rank at its block, and tell all ranks.

    Parameters
    ----------
    comm : Communicator
        All ranks.
    pool : Pool
        The images.
    forces : bool
        Whether forces are trained.
    fraction : float
        Fraction of the images to keep for validation, where none were given for it.
    seed : int
        Seed of the choice.

    Raises
    ------
    ImageError
        An image lacks what is to be trained; every rank raises it.
    InputError
        There is nothing to train on, or all images to validate on are trained on.
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
            np.frombuffer(b"".join(seen.digest() for _, seen in found), dtype=np.uint64).reshape(
                -1, 2
            ),
        )
    )
    indices, keys, energies, composition, digests = (
        np.concatenate(columns) for columns in zip(*parts, strict=True)
    )
    given = pool.given_for_validation
    trained_on = keys[indices < given.start]
    repeated = (indices >= given.start) & np.isin(keys, trained_on)
    n_shared = len(np.unique(keys[repeated]))
    indices, keys, energies, composition, digests = (
        column[~repeated] for column in (indices, keys, energies, composition, digests)
    )
    first, last, copies = _unique(keys)
    in_validation = indices[first] >= given.start
    order = np.argsort(first, kind="stable")
    last, copies, in_validation = last[order], copies[order], in_validation[order]
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
    rows = digests[last]
    training, validation = (
        combine_digests([row.tobytes() for row in rows[which]]).hex()
        for which in (~in_validation, in_validation)
    )
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
        digest=training,
        validation_digest=validation,
    )


def _unique(
    keys: NDArray[np.bytes_],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the first and the last of each distinct key, and how many there are."""
    _, first, copies = np.unique(keys, return_index=True, return_counts=True)
    _, from_end = np.unique(keys[::-1], return_index=True)
    return first, len(keys) - 1 - from_end, copies


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
