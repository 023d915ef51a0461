"""Which images there are: each rank reads and hashes its share of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampmpi.descriptor import Descriptor, check_numbers
from ampmpi.errors import ImageError, InputError
from ampmpi.images import ImageList, Images, ImageSet, digest_image
from ampmpi.images.files import Frames, ImageFile, find_files, survey
from ampmpi.images.imageset import file_names, image_list
from ampmpi.images.kept import KeptImages
from ampmpi.keys import DIGEST
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree, on_all, share
from ampmpi.parallel.schedule import ROWS, chunks, index_dtype, rank_dtype
from ampmpi.parallel.stopping import Stopping

if TYPE_CHECKING:
    from ase import Atoms


class Look(NamedTuple):
    """What is remembered of one image; `failure` says why it cannot be used, if so."""

    digest: bytes = bytes(DIGEST.itemsize)
    cost: float = 0.0
    numbers: frozenset[int] = frozenset()
    failure: str | None = None

    @classmethod
    def at(cls, image: Atoms | ImageError, descriptor: Descriptor) -> Look:
        """Hash an image and predict its cost."""
        try:
            if isinstance(image, ImageError):
                raise image
            _check_atoms(image)
        except ImageError as error:
            return cls(failure=str(error))
        numbers = frozenset(image.numbers.tolist())
        return cls(digest_image(image), descriptor.predict_cost(image), numbers)


@dataclass
class Seen:
    """What one rank has read: for each image its number, digest and predicted cost."""

    indices: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    numbers: set[int] = field(default_factory=set)

    def add(self, index: int, look: Look) -> None:
        """Add one image."""
        self.indices.append(index)
        self.digests.append(look.digest)
        self.costs.append(look.cost)
        self.numbers |= look.numbers
        if look.failure is not None:
            self.failed[index] = look.failure


def _check_atoms(image: Atoms) -> None:
    """Refuse what no descriptor can take, and atoms of no element, such as ghosts (X)."""
    check_numbers(image)
    wrong = np.flatnonzero((image.numbers < 1) | (image.numbers > 118))
    if len(wrong):
        raise ImageError(
            f"atom {wrong[0]} has the atomic number {image.numbers[wrong[0]]}, which is no "
            "element's: correct it or leave the image out."
        )


@dataclass
class Inventory:
    """The images of a job, each once. The arrays are there on rank 0 only.

    Attributes
    ----------
    images : Images
        The set, to read from.
    symbols : tuple of str
        The elements in it, in alphabetical order.
    numbers : (n,) int array
        Numbers in the set of the images that can be read and are no duplicates, ascending.
    digests : (n,) array of 16 bytes
        Hash of each of these, as a string of bytes.
    costs : (n,) float32 array
        Predicted cost of each.
    homes : (n,) int array
        The rank that has read each.
    locators : (n,) int64 array or None
        Where each is in its file; None for images in memory.
    repeated : (n_repeated,) int array
        Numbers of those that come more than once, ascending.
    times : (n_repeated,) int32 array
        How often these come.
    failed : dict of int to str
        Images that cannot be read, and why.
    """

    images: Images
    symbols: tuple[str, ...]
    numbers: NDArray[Any]
    digests: NDArray[np.bytes_]
    costs: NDArray[np.float32]
    homes: NDArray[Any]
    locators: NDArray[np.int64] | None
    repeated: NDArray[Any]
    times: NDArray[np.int32]
    failed: dict[int, str]


def take_inventory(
    images: Any, descriptor: Descriptor, comm: Communicator, stopping: Stopping
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
    kept = KeptImages(found)
    on_all(comm, lambda: _hash(found, kept, locators, descriptor, comm, stopping, seen))
    stopping.raise_if_asked("reading the images")
    return _gather(kept, locators, comm, seen)


def _open(
    images: Any, descriptor: Descriptor, comm: Communicator, seen: Seen
) -> tuple[ImageSet | ImageList, NDArray[np.int64] | None]:
    """Open images; on rank 0 return also where each is in its file."""
    names = agree(comm, lambda: file_names(images))
    if names is not None:
        return _survey(agree(comm, lambda: find_files(names)), descriptor, comm, seen)
    found = on_all(comm, lambda: image_list(images))
    if len(set(comm.allgather(len(found)))) > 1:
        raise share(InputError("the ranks were given different numbers of images: give all alike"))
    return found, None


def _survey(
    files: list[ImageFile], descriptor: Descriptor, comm: Communicator, seen: Seen
) -> tuple[ImageSet, NDArray[np.int64] | None]:
    """Count frames, each rank in its share of the files.

    Files that have to be read whole for that are hashed on the way.
    """
    visited: dict[int, list[tuple[int, Look]]] = {}

    def survey_share() -> dict[int, Frames]:
        mine = {}
        for number in range(comm.rank, len(files), comm.size):
            looks = visited[number] = []

            def visit(frame: int, image: Atoms, into: list[tuple[int, Look]] = looks) -> None:
                into.append((frame, Look.at(image, descriptor)))

            mine[number] = survey(files[number], visit)
        return mine

    mine = on_all(comm, survey_share)
    bare = {number: Frames(frames.numbers, None, frames.changed) for number, frames in mine.items()}
    merged = {number: frames for part in comm.allgather(bare) for number, frames in part.items()}
    found = ImageSet(files, [merged[number] for number in range(len(files))])
    for number, looks in visited.items():
        chosen, span = found.frames[number].numbers, found.span(number)
        for frame, look in looks:
            if frame in chosen:
                seen.add(span[chosen.index(frame)], look)
    gathered = comm.gather(
        [(n, frames.locators) for n, frames in mine.items() if frames.locators is not None]
    )
    if gathered is None:
        return found, None
    locators = found.locators()
    for part in gathered:
        for number, where in part:
            span = found.span(number)
            locators[span.start : span.stop] = where
    return found, locators


def _hash(
    found: ImageSet | ImageList,
    kept: KeptImages,
    locators: NDArray[np.int64] | None,
    descriptor: Descriptor,
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
        seen.add(index, Look.at(image, descriptor))
        if not isinstance(image, ImageError):
            kept.keep(index, image)
        if stopping.asked():
            break


def _scatter_locators(
    locators: NDArray[np.int64] | None, n_images: int, comm: Communicator
) -> NDArray[np.int64]:
    """Tell each rank where its images are in their files."""

    def part(rank: int) -> NDArray[np.int64]:
        assert locators is not None
        mine: NDArray[np.int64] = locators[chunks(n_images, rank, comm.size)]
        return mine

    return comm.scatter_each(part)


def _gather(
    images: KeptImages,
    locators: NDArray[np.int64] | None,
    comm: Communicator,
    seen: Seen,
) -> Inventory:
    from ase.data import chemical_symbols

    # One column after the other, so that no more than one is there twice.
    n_images = len(images)
    indices = np.array(seen.indices, dtype=index_dtype(n_images))
    is_planned = np.array_equal(indices, chunks(n_images, comm.rank, comm.size))
    everyone = comm.gather(None if is_planned else indices)
    rows = np.frombuffer(b"".join(seen.digests), np.uint8).reshape(-1, DIGEST.itemsize)
    numbers = set[int]().union(*comm.allgather(seen.numbers))
    symbols = tuple(sorted(chemical_symbols[number] for number in numbers))
    failures = comm.gather(seen.failed)
    order, homes = _places(everyone, n_images, comm.size)
    digests = _placed(comm.gather_rows(rows), order).view(DIGEST).ravel()
    costs = _placed(comm.gather_rows(np.array(seen.costs, dtype=np.float32)), order)
    del order
    failed = {index: reason for part in failures or () for index, reason in part.items()}
    usable = np.ones(len(digests), dtype=bool)
    usable[list(failed)] = False
    first, repeated, times = first_of_each(digests, usable)
    return Inventory(
        images, symbols, first, _only(digests, first), _only(costs, first), _only(homes, first),
        None if locators is None else _only(locators, first), repeated, times, failed,
    )  # fmt: skip


def _places(
    everyone: list[NDArray[Any] | None] | None, n_images: int, size: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the images in the order in which they are gathered, and which rank has each.

    Ranks that have read what `chunks` gives them need not tell.
    """
    homes = np.empty(n_images if everyone is not None else 0, rank_dtype(size))
    parts = []
    for rank, given in enumerate(everyone or ()):
        parts.append(chunks(n_images, rank, size) if given is None else given)
        homes[parts[-1]] = rank
    return np.concatenate(parts) if parts else np.empty(0, index_dtype(n_images)), homes


def _placed(rows: NDArray[Any] | None, indices: NDArray[Any]) -> NDArray[Any]:
    """Return rows in the order of the images; nothing where there are none."""
    if rows is None:
        return np.empty((0, DIGEST.itemsize), np.uint8)
    placed = np.empty_like(rows)
    placed[indices] = rows
    return placed


def _only(rows: NDArray[Any], chosen: NDArray[Any]) -> NDArray[Any]:
    """Move chosen rows, in ascending order, to the front, and return these; in place."""
    if len(chosen) < len(rows):
        for start in range(0, len(chosen), ROWS):
            some = rows[chosen[start : start + ROWS]]
            rows[start : start + len(some)] = some
    return rows[: len(chosen)]


def first_of_each(
    digests: NDArray[np.bytes_], usable: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int32]]:
    """Find equal images, given the hash of each and whether it counts.

    Returns
    -------
    first : (n_different,) int array
        Number of the first image of each hash, ascending.
    repeated : (n_repeated,) int array
        Those of them whose hash comes more than once, ascending.
    times : (n_repeated,) int32 array
        How often it comes.
    """
    dtype = index_dtype(len(digests))
    order = np.argsort(digests, kind="stable").astype(dtype, copy=False)
    if not usable.all():
        order = order[usable[order]]
    is_new = np.ones(len(order) + 1, dtype=bool)  # the last for the end
    for start in range(1, len(order), ROWS):
        run = digests[order[start - 1 : start + ROWS]]
        is_new[start : start + len(run) - 1] = run[1:] != run[:-1]
    is_first = np.zeros(len(digests), dtype=bool)
    is_first[order[is_new[:-1]]] = True
    heads = np.flatnonzero(is_new[:-1] & ~is_new[1:])
    ends = np.flatnonzero(~is_new[:-1] & is_new[1:])
    repeated, times = order[heads], (ends - heads + 1).astype(np.int32)
    del order, is_new, heads, ends
    ascending = np.argsort(repeated)
    first = np.flatnonzero(is_first).astype(dtype, copy=False)
    return first, repeated[ascending], times[ascending]
