"""Which images there are: each rank reads and hashes its share of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import AmpmpiError, ImageError, InputError
from ampmpi.images import ImageList, Images, ImageSet, digest_image
from ampmpi.images.files import Frames, ImageFile, find_files, survey
from ampmpi.images.imageset import file_names, image_list
from ampmpi.images.kept import KeptImages
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree, raise_first, share
from ampmpi.parallel.schedule import chunks, readers
from ampmpi.parallel.stopping import Stopping

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.descriptor import Gaussian

DIGEST = np.dtype("S16")
ROWS = 1 << 16
"""Number of rows that are handled at a time where that saves memory."""


@dataclass
class Seen:
    """What one rank has read: for each image its number, digest and predicted cost."""

    indices: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    numbers: set[int] = field(default_factory=set)

    def add(self, index: int, image: Atoms | ImageError, descriptor: Gaussian) -> None:
        """Hash one image."""
        self.indices.append(index)
        if isinstance(image, ImageError):
            self.failed[index] = str(image)
            self.digests.append(bytes(16))
            self.costs.append(0.0)
            return
        self.digests.append(digest_image(image))
        self.costs.append(descriptor.predict_cost(image))
        self.numbers.update(image.numbers.tolist())


@dataclass
class Inventory:
    """The images of a job. The arrays are there on rank 0 only.

    Attributes
    ----------
    images : Images
        The set, to read from.
    symbols : tuple of str
        The elements in it, in alphabetical order.
    digests : (n_images,) array of 16 bytes
        Hash of each image, as a string of bytes.
    costs : (n_images,) float32 array
        Predicted cost of each.
    homes : (n_images,) int32 array
        The rank that has read each.
    locators : (n_images,) int64 array or None
        Where each is in its file; None for images in memory.
    failed : dict of int to str
        Images that cannot be read, and why.
    """

    images: Images
    symbols: tuple[str, ...]
    digests: NDArray[np.bytes_]
    costs: NDArray[np.float32]
    homes: NDArray[np.int32]
    locators: NDArray[np.int64] | None
    failed: dict[int, str]


def take_inventory(
    images: Any, descriptor: Gaussian, comm: Communicator, stopping: Stopping
) -> Inventory:
    """Read and hash all images, each rank its share.

    Raises
    ------
    ImageFileError
        A file is missing or cannot be read.
    InputError
        There are no images, or the ranks were given different ones.
    Unfinished
        A signal asked to stop.
    """
    seen = Seen()
    found, locators = _open(images, descriptor, comm, seen)
    if not len(found):
        raise share(InputError("there are no images: nothing to fingerprint"))
    error = None
    kept = KeptImages(found)
    try:
        _hash(found, kept, locators, descriptor, comm, stopping, seen)
    except AmpmpiError as caught:
        error = caught
    raise_first(comm, error)
    stopping.raise_if_asked("reading the images")
    return _gather(kept, locators, comm, seen)


def _open(
    images: Any, descriptor: Gaussian, comm: Communicator, seen: Seen
) -> tuple[ImageSet | ImageList, NDArray[np.int64] | None]:
    """Open images; on rank 0 return also where each is in its file."""
    names = agree(comm, lambda: file_names(images))
    if names is not None:
        return _survey(agree(comm, lambda: find_files(names)), descriptor, comm, seen)
    error, found = None, ImageList([])
    try:
        found = image_list(images)
    except InputError as caught:
        error = caught
    raise_first(comm, error)
    if len(set(comm.allgather(len(found)))) > 1:
        raise share(InputError("the ranks were given different numbers of images: give all alike"))
    return found, None


def _survey(
    files: list[ImageFile], descriptor: Gaussian, comm: Communicator, seen: Seen
) -> tuple[ImageSet, NDArray[np.int64] | None]:
    """Count frames, each rank in its share of the files.

    Files that have to be read whole for that are hashed on the way.
    """
    mine: list[tuple[int, Frames]] = []
    visited: dict[int, list[tuple[int, Seen]]] = {}
    error = None
    try:
        for number in range(comm.rank, len(files), comm.size):
            frames_seen: list[tuple[int, Seen]] = []

            def visit(frame: int, image: Atoms, into: list[tuple[int, Seen]] = frames_seen) -> None:
                one = Seen()
                one.add(0, image, descriptor)
                into.append((frame, one))

            mine.append((number, survey(files[number], visit)))
            visited[number] = frames_seen
    except AmpmpiError as caught:
        error = caught
    raise_first(comm, error)
    bare = {number: Frames(frames.numbers, None, frames.changed) for number, frames in mine}
    merged = {number: frames for part in comm.allgather(bare) for number, frames in part.items()}
    found = ImageSet(files, [merged[number] for number in range(len(files))])
    _keep_visited(found, visited, seen)
    gathered = comm.gather(
        [(n, frames.locators) for n, frames in mine if frames.locators is not None]
    )
    if gathered is None:
        return found, None
    locators = found.locators()
    for part in gathered:
        for number, where in part:
            span = found.span(number)
            locators[span.start : span.stop] = where
    return found, locators


def _keep_visited(found: ImageSet, visited: dict[int, list[tuple[int, Seen]]], seen: Seen) -> None:
    """Add what was hashed during the survey, under the numbers of the whole set."""
    for number, frames in visited.items():
        chosen, span = found.frames[number].numbers, found.span(number)
        for frame, one in frames:
            if frame in chosen:
                seen.indices.append(span[chosen.index(frame)])
                seen.digests += one.digests
                seen.costs += one.costs
                seen.numbers |= one.numbers


def _hash(
    found: ImageSet | ImageList,
    kept: KeptImages,
    locators: NDArray[np.int64] | None,
    descriptor: Gaussian,
    comm: Communicator,
    stopping: Stopping,
    seen: Seen,
) -> None:
    """Hash this rank's share of the images that were not visited by the survey.

    Ranks take chunks of neighbouring images in turn, and keep what they read as
    long as there is room, since most images are computed where they were read.
    """
    mine = chunks(len(found), comm.rank, comm.size)
    where = None
    if isinstance(found, ImageSet):
        where = _scatter_locators(locators, len(found), comm)
        unread = np.ones(len(mine), dtype=bool)
        for number, file in enumerate(found.files):
            if not file.is_random_access:
                span = found.span(number)
                unread &= (mine < span.start) | (mine >= span.stop)
        mine, where = mine[unread], where[unread]
    listed = None if where is None else where.tolist()
    for index, image in found.read_many(mine.tolist(), listed):
        seen.add(index, image, descriptor)
        if not isinstance(image, ImageError):
            kept.keep(index, image)
        if stopping.asked():
            break


def _scatter_locators(
    locators: NDArray[np.int64] | None, n_images: int, comm: Communicator
) -> NDArray[np.int64]:
    """Tell each rank where its images are in their files."""
    if comm.size == 1:
        assert locators is not None
        return locators
    if locators is None:
        return comm.scatter_rows(None, None)
    owners = readers(n_images, comm.size)
    counts = np.bincount(owners, minlength=comm.size).tolist()
    return comm.scatter_rows(locators[np.argsort(owners, kind="stable")], counts)


def _gather(
    images: KeptImages,
    locators: NDArray[np.int64] | None,
    comm: Communicator,
    seen: Seen,
) -> Inventory:
    from ase.data import chemical_symbols

    # One column after the other, so that no more than one is there twice.
    indices = comm.gather_rows(np.array(seen.indices, dtype=np.int64))
    rows = np.frombuffer(b"".join(seen.digests), np.uint8).reshape(-1, DIGEST.itemsize)
    digests = _placed(comm.gather_rows(rows), indices)
    costs = _placed(comm.gather_rows(np.array(seen.costs, dtype=np.float32)), indices)
    numbers = set[int]().union(*comm.allgather(seen.numbers))
    failures = comm.gather(seen.failed)
    symbols = tuple(sorted(chemical_symbols[number] for number in numbers))
    counts = comm.gather(len(seen.indices))
    if failures is None or counts is None:
        nothing = np.empty(0, np.int32)
        return Inventory(images, symbols, digests.view(DIGEST).ravel(), costs, nothing, None, {})
    homes = _placed(np.repeat(np.arange(comm.size, dtype=np.int32), counts), indices)
    failed = {index: reason for part in failures for index, reason in part.items()}
    return Inventory(images, symbols, digests.view(DIGEST).ravel(), costs, homes, locators, failed)


def _placed(rows: NDArray[Any] | None, indices: NDArray[np.int64] | None) -> NDArray[Any]:
    """Return rows in the order of the images; nothing where there are none."""
    if rows is None or indices is None:
        return np.empty(0, np.uint8)
    placed = np.empty_like(rows)
    placed[indices] = rows
    return placed


def first_of_each(
    digests: NDArray[np.bytes_], usable: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Find equal images.

    Parameters
    ----------
    digests : (n_images,) array of 16 bytes
        Hash of each image.
    usable : (n_images,) bool array
        Images that count.

    Returns
    -------
    first : (n_different,) int64 array
        Number of the first image of each hash, ascending.
    times : (n_different,) int32 array
        How often it comes.
    """
    order = np.argsort(digests, kind="stable")
    if not usable.all():
        order = order[usable[order]]
    is_first = np.ones(len(order), dtype=bool)
    for start in range(1, len(order), ROWS):
        run = digests[order[start - 1 : start + ROWS]]
        is_first[start : start + ROWS] = run[1:] != run[:-1]
    starts = np.flatnonzero(is_first)
    heads = order[starts]
    del order, is_first
    n_usable = int(np.count_nonzero(usable))
    counts = np.empty(len(starts), dtype=np.int32)
    np.subtract(starts[1:], starts[:-1], out=counts[:-1], casting="same_kind")
    counts[-1:] = n_usable - starts[-1:]
    del starts
    times = np.zeros(len(digests), dtype=np.int32)
    times[heads] = counts
    del heads, counts
    first = np.flatnonzero(times)
    return first, times[first]


def present(digests: NDArray[np.bytes_], keys: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """Return which digests are among keys; both are arrays of 16 bytes, keys in ascending order."""
    found = np.zeros(len(digests), dtype=bool)
    if len(keys):
        for start in range(0, len(digests), ROWS):
            some = digests[start : start + ROWS]
            at = np.minimum(np.searchsorted(keys, some), len(keys) - 1)
            found[start : start + ROWS] = keys[at] == some
    return found
