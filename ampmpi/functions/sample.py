"""The images that are looked at closely: a bounded number of atoms, spread over the set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import ImageError
from ampmpi.functions.moments import Sample
from ampmpi.images.labels import LabelKeys
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import on_all
from ampmpi.parallel.schedule import block, deal
from ampmpi.training.pool import Pool, target

if TYPE_CHECKING:
    from ase import Atoms

MOST_ATOMS = 6000
"""So many atoms are enough, and take seconds."""

MOST_IMAGES = 600


def read_sample(
    comm: Communicator, pool: Pool, keys: LabelKeys, *, skip_unusable: bool = False
) -> tuple[list[str], list[Sample]]:
    """Return the elements of the whole set, and this rank's images of the sample.

    Where some images have forces, those without are left out of the sample; with
    `skip_unusable`, those that cannot be read are, too.
    """

    def look() -> list[tuple[int, list[str], bool]]:
        found = []
        for index, atoms in pool.look(block(len(pool), comm.rank, comm.size)):
            if not isinstance(atoms, ImageError):
                found.append(
                    (len(atoms), sorted(set(atoms.symbols)), _labels(atoms, keys) is not None)
                )
            elif skip_unusable:
                found.append((0, [], False))
            else:
                raise ImageError(f"{pool.name(index)}: {atoms}")
        return found

    found = on_all(comm, look)
    every = [image for part in comm.allgather(found) for image in part]
    elements = sorted({symbol for _, symbols, _ in every for symbol in symbols})
    labelled = any(has for _, _, has in every)
    usable = np.array(
        [n for n, (size, _, has) in enumerate(every) if size and (has or not labelled)], np.int64
    )
    if not len(usable):
        return elements, []
    n_atoms = np.array([every[n][0] for n in usable])
    chosen = usable[thin(n_atoms, [every[n][1] for n in usable])]
    sizes = np.array([every[n][0] for n in chosen], dtype=float)
    mine = np.flatnonzero(deal(sizes**2, comm.size) == comm.rank)
    number = dict(zip(chosen[mine].tolist(), mine.tolist(), strict=True))
    samples = on_all(
        comm,
        lambda: [
            _sample(number[index], atoms, name, keys)
            for index, _, name, atoms in pool.read(chosen[mine].tolist())
        ],
    )
    return elements, samples


def thin(n_atoms: NDArray[np.int64], symbols: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Return images in equal steps, with the first one of each element that these lack.

    Parameters
    ----------
    n_atoms : (n_images,) int array
        Atoms of each image.
    symbols : sequence of sequences of str
        Elements of each image.
    """
    step = max(1, -(-len(n_atoms) // MOST_IMAGES))
    while step < len(n_atoms) and n_atoms[::step].sum() > MOST_ATOMS:
        step += 1
    chosen = set(range(0, len(n_atoms), step))
    seen = {symbol for index in chosen for symbol in symbols[index]}
    for index, present in enumerate(symbols):
        if not seen.issuperset(present):
            chosen.add(index)
            seen.update(present)
    return np.array(sorted(chosen), dtype=np.int64)


def _labels(atoms: Atoms, keys: LabelKeys) -> tuple[float, NDArray[np.float64]] | None:
    try:
        seen = target(atoms, "", keys, forces=True)
    except ImageError:
        return None
    assert seen.forces is not None
    return seen.energy, seen.forces


def _sample(number: int, atoms: Atoms, name: str, keys: LabelKeys) -> Sample:
    energy, forces = _labels(atoms, keys) or (None, None)
    return Sample(number, name, atoms, energy, forces)
