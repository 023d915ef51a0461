"""`select`: of all images of trajectories, those that are most worth computing next."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ampmpi.committee import Committee
from ampmpi.errors import ImageError, InputError, UnusableImagesError
from ampmpi.evaluation import LeftOut, remarks
from ampmpi.images import ImageRef, Images, open_images
from ampmpi.images.imageset import as_read, file_names, image_list
from ampmpi.parallel.comm import Communicator, as_communicator
from ampmpi.parallel.failure import abort_on_error, agree, on_all, share
from ampmpi.parallel.kernels import warm_up
from ampmpi.parallel.schedule import block
from ampmpi.selection.farthest import choose, nearest
from ampmpi.selection.survey import (
    Array,
    Surveyed,
    as_committee,
    check_quantile,
    committee_spreads,
    survey,
)
from ampmpi.selection.writing import with_spreads, write_images
from ampmpi.text import amount, figures

if TYPE_CHECKING:
    from ase import Atoms

QUANTILE = 0.7
"""By default the images are chosen among those whose spread is above this part of all."""

CLOSEST = 0.6
"""Part of the sum of covalent radii that no two atoms of a sound image are closer than."""

TOLERANCE = 0.003
"""Images are alike whose features differ by this part of their trained range: in an alloy, by
displacements of some 0.01 Å."""

PARTS = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Pick:
    """One chosen image.

    Attributes
    ----------
    ref : ImageRef
        Its file and number there.
    spread : float
        The largest spread of an atom's force, eV/Å.
    atom : int
        The atom that has it.
    symbol : str
        Its element.
    distance : float
        How far its features are from those of the nearest image that is known or was chosen
        before, as part of their trained range; inf where there was none.
    """

    ref: ImageRef
    spread: float
    atom: int
    symbol: str
    distance: float


@dataclass(frozen=True, eq=False)
class Selection:
    """What was chosen, and of what; the same on every rank.

    Attributes
    ----------
    images : list of ase.Atoms
        The chosen images, the most wanted first. They carry the array ``forces_spread``
        (eV/Å), ``largest_spread`` and the ``image`` they were in their `info`, and neither
        energies nor forces.
    picks : list of Pick
        The same in numbers.
    n_asked, n_images, n_usable, n_known : int
        Images asked for, looked at, usable, and known before (those that can be described).
    n_unsure, n_beyond, n_alike : int
        Usable images above the limit; those that are beyond the upper one; those between that
        are like a known or chosen one.
    limit, upper : float
        The limits of the spread, eV/Å.
    spreads : (n_usable,) float array, eV/Å
        The largest spread in each usable image, in the order of the set.
    largest : ImageRef or None
        The image that has the largest of all.
    remarks : tuple of str
        What is said of images that cannot be used.
    """

    images: list[Atoms]
    picks: list[Pick]
    n_asked: int
    n_images: int
    n_usable: int
    n_known: int
    n_unsure: int
    n_beyond: int
    n_alike: int
    limit: float
    upper: float
    spreads: Array
    largest: ImageRef | None
    remarks: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return what the command prints."""
        known = f"; {amount(self.n_known, 'image')} known" if self.n_known else ""
        found = [f"{amount(self.n_images, 'image')} looked at{known}", *self.remarks]
        parts = ", ".join(
            f"{100 * part:g} % below {figures(float(np.quantile(self.spreads, part)), 3)}"
            for part in PARTS
        )
        found += [
            f"Spread of the forces, eV/Å: {parts}, largest {figures(self.spreads.max(), 3)} "
            f"({self.largest})",
            f"{amount(self.n_unsure, 'image')} above the limit of {figures(self.limit, 3)} eV/Å",
        ]
        if self.n_beyond:
            found.append(
                f"{amount(self.n_beyond, 'image')} left out, beyond the upper limit of "
                f"{self.upper:g} eV/Å"
            )
        if self.n_alike:
            found.append(f"{amount(self.n_alike, 'image')} left out, like one known or chosen")
        found += ["", "       spread   distance of features   at"] if self.picks else []
        for number, pick in enumerate(self.picks):
            far = "first" if np.isinf(pick.distance) else f"{pick.distance:.3f}"
            found.append(
                f"{number:4} {figures(pick.spread, 3):>8} {far:>22}   atom {pick.atom} "
                f"({pick.symbol}) of {pick.ref}"
            )
        if len(self.picks) < self.n_asked:
            found += [
                "",
                f"Only {len(self.picks)} of the {self.n_asked} asked for: the others are not "
                "above the limit, or like these",
            ]
        return found

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the images as extended XYZ or as a trajectory of ASE, by the name's ending.

        Raises
        ------
        InputError
            The name does not say how.
        FileError
            The file cannot be written.
        """
        write_images(path, self.images)


def select(
    committee: Any,
    images: Any,
    n: int,
    *,
    known: Any = None,
    limit: float | None = None,
    quantile: float = QUANTILE,
    upper: float = float("inf"),
    closest: float = CLOSEST,
    tolerance: float = TOLERANCE,
    units: str | None = None,
    format: str | None = None,
    comm: Any = None,
) -> Selection:
    """Choose from trajectories the images that are most worth computing next.

    Those are looked at of which the committee is unsure: in which the spread of some atom's
    force is above `limit`. Of them the one is taken, time after time, for which the product of
    this spread and the distance to all images that are known or were taken before is largest.
    The distance is that of the means and deviations of the atoms' features, by element. It
    works alone or on all ranks of a script, which share the images, and needs no database.

    Parameters
    ----------
    committee : Committee, sequence of Amp, or what `Committee.load` takes
        The committee.
    images : file name, ase.Atoms, or iterable of these
        The images; no labels are needed.
    n : int
        Images to choose at most.
    known : file name, ase.Atoms, or iterable of these, optional
        Images that need no computing, above all those of the training.
    limit : float, optional
        Spread, eV/Å, above which an image is unsure.
    quantile : float
        Where there is no limit: it is the spread below which so large a part of the images is.
    upper : float
        Spread, eV/Å, beyond which an image is useless.
    closest : float
        Images with atoms closer than this part of the sum of their covalent radii are useless.
    tolerance : float
        Images are alike whose distance is not larger.
    units, format : str, optional
        Units and ASE's format of the files, as for `fingerprint`.
    comm : communicator, optional
        The ranks; all of the job by default.

    Returns
    -------
    Selection
        The same on every rank, and on any number of them.

    Raises
    ------
    InputError
        An argument is wrong, or the committee has no spread.
    UnusableImagesError
        None of the images can be used.
    """
    ranks = as_communicator(comm)
    with abort_on_error(ranks):
        on_all(ranks, lambda: _check(n, limit, quantile, upper, closest, tolerance))
        asked = on_all(ranks, lambda: as_committee(committee))
        given, before = on_all(
            ranks, lambda: [as_read(one, units, format) for one in (images, known)]
        )
        warm_up(ranks, "ampmpi.descriptor")
        opened = _open(ranks, given)
        seen = on_all(ranks, partial(_survey, ranks, asked, opened, closest))
        left = [one for part in ranks.allgather(seen.left) for one in part]
        return _select(
            ranks, asked, opened, seen, left, _open(ranks, before),
            n, limit, quantile, upper, tolerance,
        )  # fmt: skip


def _select(
    comm: Communicator,
    committee: Committee,
    images: Images,
    seen: Surveyed,
    left: Sequence[LeftOut],
    known: Images,
    n: int,
    limit: float | None,
    quantile: float,
    upper: float,
    tolerance: float,
) -> Selection:
    spreads = np.concatenate(comm.allgather(seen.spreads))
    indices = np.concatenate(comm.allgather(seen.indices))
    said = tuple(remarks(left, len(images)))
    if not len(spreads):
        why = f": {'; '.join(said)}" if said else ""
        raise share(UnusableImagesError(f"none of the images can be used{why}"))
    sound = spreads[spreads <= upper]
    if limit is None:
        limit = float(np.quantile(sound, quantile)) if len(sound) else upper
    before = np.concatenate(
        comm.allgather(on_all(comm, lambda: _survey(comm, committee, known, 0.0)).vectors)
    )
    mine = (seen.spreads >= limit) & (seen.spreads <= upper)
    vectors = seen.vectors[mine]
    unsure = (
        seen.indices[mine], seen.spreads[mine], seen.atoms[mine], nearest(vectors, before),
        vectors,
    )  # fmt: skip
    parts = comm.gather(unsure)

    def take() -> tuple[list[Pick], list[Atoms], int]:
        assert parts is not None
        index, spread, atom, distance, vector = map(np.concatenate, zip(*parts, strict=True))
        chosen = choose(vector, spread, distance, n, tolerance)
        order = np.sort(index[chosen.rows]).tolist()
        read = dict(images.read_many(order, results=True))
        images.close()
        picks, found = [], []
        for row, far in zip(chosen.rows.tolist(), chosen.distances.tolist(), strict=True):
            ref, image = images.ref(int(index[row])), read[int(index[row])]
            if isinstance(image, ImageError):
                raise UnusableImagesError(f"{ref}: {image}")
            spread_of = committee_spreads(committee, image)
            found.append(with_spreads(image, spread_of, image=str(ref)))
            symbol = image.symbols[int(atom[row])]
            picks.append(Pick(ref, float(spread[row]), int(atom[row]), symbol, far))
        return picks, found, chosen.n_alike

    picks, found, n_alike = agree(comm, take)
    return Selection(
        images=found,
        picks=picks,
        n_asked=n,
        n_images=len(images),
        n_usable=len(spreads),
        n_known=len(before),
        n_unsure=int((spreads >= limit).sum()),
        n_beyond=int((spreads > upper).sum()),
        n_alike=n_alike,
        limit=limit,
        upper=upper,
        spreads=spreads,
        largest=images.ref(int(indices[spreads.argmax()])),
        remarks=said,
    )


def _survey(comm: Communicator, committee: Committee, images: Images, closest: float) -> Surveyed:
    return survey(committee, images, block(len(images), comm.rank, comm.size), closest)


def _open(comm: Communicator, images: Any) -> Images:
    """Open images on every rank; files are looked through by rank 0 alone."""
    if images is None:
        return image_list([])
    if file_names(images) is None:
        return on_all(comm, partial(open_images, images))
    return agree(comm, partial(open_images, images))


def _check(
    n: int,
    limit: float | None,
    quantile: float,
    upper: float,
    closest: float,
    tolerance: float,
) -> None:
    if not isinstance(n, int) or n < 1:
        raise InputError(f"n is {n!r}: give a number of images to choose, at least 1")
    check_quantile(quantile)
    if limit is not None and not limit >= 0.0:
        raise InputError(f"limit is {limit!r}: give a spread of the forces, eV/Å")
    if not upper > (limit or 0.0):
        raise InputError(f"upper is {upper!r}: give a spread of the forces above the limit, eV/Å")
    for name, value in (("closest", closest), ("tolerance", tolerance)):
        if not value >= 0.0:
            raise InputError(f"{name} is {value!r}: give a number that is not negative")
