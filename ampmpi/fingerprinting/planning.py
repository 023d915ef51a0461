"""What a dry run says: how many entries, files and bytes there would be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ampmpi.database import FingerprintDatabase
from ampmpi.entries.codec import encode
from ampmpi.errors import ImageError
from ampmpi.fingerprinting.summary import Plan
from ampmpi.fingerprinting.work import Share, entries_of
from ampmpi.images import Images
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.kernels import warm_up

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.descriptor import Gaussian

SAMPLES = 20
"""Number of images that are computed, and not written, to learn the size of an entry."""


def predict(
    share: Share,
    images: Images,
    descriptor: Gaussian,
    databases: Mapping[int, FingerprintDatabase],
    comm: Communicator,
) -> tuple[Plan, ...]:
    """Compute a few images of each rank's share and predict the size of all."""
    warm_up(comm, "ampmpi.descriptor")
    kinds = list(databases)
    missing = np.array([sum(bool(what & kind) for what in share.what) for kind in kinds])
    sizes, counts = np.zeros(len(kinds)), np.zeros(len(kinds))
    n_samples = -(-SAMPLES // comm.size)
    for position, image in _samples(share, images, n_samples):
        try:
            entries = entries_of(image, descriptor, share.what[position])
        except ImageError:
            continue
        for kind, entry in entries:
            sizes[kinds.index(kind)] += len(encode(entry))
            counts[kinds.index(kind)] += 1
    totals = comm.allreduce(np.array([missing, sizes, counts], dtype=np.float64))
    n_missing, n_bytes, n_sampled = totals
    mean: NDArray[np.float64] = n_bytes / np.maximum(n_sampled, 1)
    return tuple(
        Plan(databases[kind].path, int(n_missing[i]), int(n_missing[i] * mean[i]))
        for i, kind in enumerate(kinds)
    )


def _samples(share: Share, images: Images, n_samples: int) -> Iterator[tuple[int, Atoms]]:
    """Read some images of a share, evenly spread, with their positions in it."""
    if not share.indices:
        return
    chosen = np.unique(np.linspace(0, len(share.indices) - 1, n_samples).astype(int)).tolist()
    locators = None if share.locators is None else [share.locators[i] for i in chosen]
    found = images.read_many([share.indices[i] for i in chosen], locators)
    for position, (_, image) in zip(chosen, found, strict=True):
        if not isinstance(image, ImageError):
            yield position, image
