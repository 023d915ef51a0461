"""The images that are looked at closely: a bounded number of atoms, spread over the set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import ImageError, UnusableImagesError
from ampmpi.functions.moments import Sample
from ampmpi.images.doubts import SHOWN, named
from ampmpi.images.labels import LabelKeys
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import on_all, share
from ampmpi.parallel.schedule import block, deal
from ampmpi.text import amount
from ampmpi.training.dataset import Dataset
from ampmpi.training.pool import Pool, target
from ampmpi.training.unusable import Unusable, hindrance, left_out

if TYPE_CHECKING:
    from ase import Atoms

MOST_ATOMS = 6000
"""So many atoms are enough, and take seconds."""

MOST_IMAGES = 600


@dataclass(frozen=True, eq=False)
class Sampled:
    """A sample of a set, of which each rank has some images.

    Attributes
    ----------
    elements : list of str
        Those of the whole set, sorted.
    mine : list of Sample
        This rank's images.
    remarks : tuple of str
        What is said of images that are left out.
    """

    elements: list[str]
    mine: list[Sample]
    remarks: tuple[str, ...] = ()


def read_sample(
    comm: Communicator, pool: Pool, keys: LabelKeys, *, skip_unusable: bool = False
) -> Sampled:
    """Look at a whole set, and read a sample of it.

    Where some images have forces, those without are left out of the sample; with
    `skip_unusable`, those that cannot be used are, too.
    """
    mine = block(len(pool), comm.rank, comm.size)
    unusable: list[Unusable] = []
    sizes, kinds = np.zeros(len(mine), np.int64), np.zeros(len(mine), np.int64)
    labelled = np.zeros(len(mine), np.bool_)
    known: dict[tuple[str, ...], int] = {}  # sets of elements, and their numbers

    def look() -> None:
        for index, atoms in pool.look(mine):
            wrong = hindrance(pool.ref(index), index, atoms)
            if wrong is not None:
                unusable.append(wrong)
            elif not isinstance(atoms, ImageError):
                here = index - mine.start
                sizes[here] = len(atoms)
                kinds[here] = known.setdefault(tuple(sorted(set(atoms.symbols))), len(known))
                labelled[here] = _labels(atoms, keys) is not None

    on_all(comm, look)
    wrong = [one for part in comm.allgather(unusable) for one in part]
    if wrong and not skip_unusable:
        more = f", nor can {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise share(
            UnusableImagesError(
                f"{wrong[0].sentence}: it cannot be used{more}; take such images out of the set, "
                "or leave them out with --skip-unusable (skip_unusable=True in a script)"
            )
        )
    elements = sorted({one for part in comm.allgather(list(known)) for few in part for one in few})
    has = np.zeros((len(known) + 1, len(elements)), np.bool_)
    for few, number in known.items():
        has[number] = np.isin(elements, few)
    parts = comm.allgather((sizes, labelled, has[kinds] & (sizes > 0)[:, None]))
    n_atoms, with_forces, present = (np.concatenate(column) for column in zip(*parts, strict=True))
    usable = n_atoms > 0
    remarks = left_out(wrong, {}, pool.given_for_validation, pool.ref)
    if with_forces.any() and not with_forces[usable].all():
        bare = np.flatnonzero(usable & ~with_forces).tolist()
        remarks.append(
            f"{amount(len(bare), 'image')} without energy and forces that can be used, not looked "
            f"at: {named(map(pool.ref, bare), SHOWN)}"
        )
        usable &= with_forces
    some = np.flatnonzero(usable)
    samples = _read(comm, pool, keys, some, n_atoms[some], present[some])
    return Sampled(elements, samples, tuple(remarks))


def sample_of(comm: Communicator, dataset: Dataset) -> Sampled:
    """Read a sample of the images that a training trains on, and of no others."""
    chosen = ~dataset.validation & dataset.has_forces
    order = np.argsort(dataset.indices[chosen])
    composition = dataset.composition[chosen][order]
    samples = _read(
        comm,
        dataset.pool,
        dataset.choice.keys,
        dataset.indices[chosen][order],
        composition.sum(axis=1).astype(np.int64),
        composition > 0,
    )
    return Sampled(list(dataset.elements), samples)


def _read(
    comm: Communicator,
    pool: Pool,
    keys: LabelKeys,
    indices: NDArray[np.int64],
    n_atoms: NDArray[np.int64],
    present: NDArray[np.bool_],
) -> list[Sample]:
    """Choose a sample of some images, and read this rank's part of it."""
    thinned = thin(n_atoms, present)
    chosen = indices[thinned]
    mine = np.flatnonzero(deal(n_atoms[thinned].astype(float) ** 2, comm.size) == comm.rank)
    number = dict(zip(chosen[mine].tolist(), mine.tolist(), strict=True))

    def read() -> list[Sample]:
        found = []
        for index, _, name, atoms in pool.read(chosen[mine].tolist()):
            energy, forces = _labels(atoms, keys) or (None, None)
            found.append(Sample(number[index], name, atoms, energy, forces))
        return found

    return on_all(comm, read)


def consistent(comm: Communicator, samples: Sequence[Sample]) -> list[Sample]:
    """Leave images without forces out where others have them, and number all anew."""
    labelled = any(comm.allgather(any(one.forces is not None for one in samples)))
    kept = [one for one in samples if one.forces is not None or not labelled]
    numbers = sorted(n for part in comm.allgather([one.number for one in kept]) for n in part)
    new = {number: position for position, number in enumerate(numbers)}
    return [replace(one, number=new[one.number]) for one in kept]


def thin(n_atoms: NDArray[np.int64], present: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return images in equal steps, with the first one of each element that these lack.

    Parameters
    ----------
    n_atoms : (n_images,) int array
        Atoms of each image.
    present : (n_images, n_elements) bool array
        Which elements each image holds.
    """
    n = len(n_atoms)
    step = max(1, -(-n // MOST_IMAGES))
    while step < n and n_atoms[::step].sum() > MOST_ATOMS:
        step += 1
    chosen = list(range(0, n, step))
    lacking = np.flatnonzero(present.any(axis=0) & ~present[chosen].any(axis=0))
    for index in sorted(present[:, lacking].argmax(axis=0).tolist()) if len(lacking) else ():
        if not (present[chosen].any(axis=0) >= present[index]).all():
            chosen.append(index)
    return np.array(sorted(chosen), dtype=np.int64)


def _labels(atoms: Atoms, keys: LabelKeys) -> tuple[float, NDArray[np.float64]] | None:
    try:
        seen = target(atoms, "", keys, forces=True)
    except ImageError:
        return None
    assert seen.forces is not None
    return seen.energy, seen.forces
