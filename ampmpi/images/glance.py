"""A glance at a set of images: under which names the labels are, and whether units are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from ampmpi.errors import ImageError
from ampmpi.images.distances import ratio, shortest
from ampmpi.images.doubts import Ratio, distance_doubts
from ampmpi.images.files import ImageFile, find_files, open_trajectory
from ampmpi.images.imageset import SAMPLED_FILES, ImageRef, Images
from ampmpi.images.labels import Choice, LabelKeys, choose, offers

if TYPE_CHECKING:
    from ase import Atoms

CP2K = frozenset({("info", "i"), ("info", "time"), ("info", "E")})
"""What CP2K's trajectories carry."""

SAMPLE = 64
"""Images that are looked at to find out under which names the labels are."""

FIRST = 4
"""Images of each file that are looked at before a job begins."""


def choose_labels(
    images: Images, keys: LabelKeys, *, forces: bool = True, stress: bool = False
) -> Choice:
    """Find out from some images under which names the labels are; `InputError` if in doubt."""
    try:
        found = [image for _, image in images.read_many(images.sample(SAMPLE), results=True)]
    finally:
        images.close()
    offered = [offers(image) for image in found if not isinstance(image, ImageError)]
    choice = choose(offered, keys, forces=forces, stress=stress)
    units_given = any(file.reading.units is not None for file in getattr(images, "files", ()))
    if choice.keys.energy == "E" and CP2K.issubset(*offered[:1]) and not units_given:
        doubt = (
            "the energies 'E' stand behind 'i' and 'time', as CP2K writes them, in Hartree: "
            "--units Hartree,A reads them so, --units eV,A as they are"
        )
        choice = replace(choice, warning="; ".join(filter(None, (choice.warning, doubt))))
    return choice


def unit_doubts(names: Sequence[Any]) -> list[str]:
    """Return what is suspicious about the distances in the first images of some of the files.

    Raises
    ------
    ImageFileError
        A file is missing or cannot be read.
    """
    refs: list[ImageRef] = []
    ratios: list[Ratio] = []
    for file in find_files(names, SAMPLED_FILES):
        for number, image in enumerate(_first(file)):
            smallest = ratio(shortest(image))
            if smallest is not None:
                ratios.append(Ratio(len(refs), smallest, file.length_unit))
                refs.append(ImageRef(file.path, number))
    return distance_doubts(ratios, refs.__getitem__)


def _first(file: ImageFile) -> list[Atoms]:
    """Return the first images of a file, without reading more of it where that can be helped."""
    from ase.io import iread

    try:
        if file.format == "traj":
            trajectory, unpacked = open_trajectory(file.path)
            try:
                images: list[Atoms] = list(islice(trajectory, FIRST))
            finally:
                trajectory.close()
                if unpacked is not None:
                    unpacked.close()
        else:
            images = list(iread(
                file.path, f":{FIRST}", format=file.format, parallel=False,
                do_not_split_by_at_sign=True,
            ))  # fmt: skip
    except Exception:  # ASE's readers raise anything; the job that follows says what is wrong
        return []
    return [file.finished(image) for image in images]
