"""The images of a training as they were given, and what each of them is to teach."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ampmpi.errors import ImageError
from ampmpi.images import ImageRef, Images, digest_image, open_images
from ampmpi.images.glance import choose_labels
from ampmpi.images.imageset import file_names
from ampmpi.images.labels import Choice, LabelKeys, energy_of, forces_of, stress_of
from ampmpi.images.weights import Weighting, Weights, weights_of
from ampmpi.model.layers import Array
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree, on_all

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class Target:
    """What one image is to teach."""

    key: str  # hash of the image
    symbols: tuple[str, ...]
    energy: float  # eV
    forces: Array | None  # (n_atoms, 3), eV/Å, where they are trained
    atoms: Any = None  # the image, where derivatives are computed from it
    stress: Array | None = None  # (6,), eV/Å³, where it is trained
    weights: Weights | None = None  # where they are not 1

    @property
    def largest_force(self) -> float:
        """Largest force on an atom, eV/Å; nan without forces."""
        if self.forces is None:
            return float("nan")
        return float(np.sqrt(np.einsum("ij,ij->i", self.forces, self.forces).max()))

    @property
    def largest_stress(self) -> float:
        """Largest component of the stress, eV/Å³; nan without one."""
        return float("nan") if self.stress is None else float(np.abs(self.stress).max())

    def digest(self) -> bytes:
        """Return 16 bytes that change with anything that the training sees."""
        text = f"{self.key} {self.energy!r}".encode()
        data = b"" if self.forces is None else np.ascontiguousarray(self.forces).tobytes()
        data += b"" if self.stress is None else self.stress.tobytes()
        return hashlib.md5(text + data, usedforsecurity=False).digest()


def target(
    atoms: Any,
    key: str,
    keys: LabelKeys,
    *,
    forces: bool,
    stress: bool = False,
    weighting: Weighting | None = None,
) -> Target:
    """Take an image's energy, forces and stress, without its constraints, as Amp does.

    Forces and stresses of weight 0 are not looked at.

    Raises
    ------
    LabelError
        It lacks one of them, or one is not what it should be, or a weight is not.
    """
    weights = weights_of(atoms, weighting or Weighting(), forces=forces, stress=stress)
    energy = energy_of(atoms, keys)
    if weights is not None:
        forces, stress = forces and bool(weights.forces.any()), stress and weights.stress > 0.0
    reference = forces_of(atoms, keys) if forces else None
    symbols = tuple(atoms.get_chemical_symbols())
    return Target(
        key,
        symbols,
        energy,
        reference,
        stress=stress_of(atoms, keys) if stress else None,
        weights=weights,
    )


class Pool:
    """Images to train on and, where they were given, images for validation, in one numbering."""

    def __init__(self, parts: Sequence[Images]) -> None:
        self.parts = parts
        self.given_for_validation = range(len(parts[0]), len(self))

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def name(self, index: int) -> str:
        """Return what an image is called in messages."""
        return str(self.ref(index))

    def ref(self, index: int) -> ImageRef:
        """Return the name of an image."""
        part, number = self._place(index)
        return part.ref(number)

    def files(self) -> list[str]:
        """Return the names of the images' files; none of images in memory."""
        return [file.path for part in self.parts for file in getattr(part, "files", ())]

    def length_unit(self, index: int) -> str:
        """Return the unit for which an image's lengths were taken."""
        part, number = self._place(index)
        return part.length_unit(number)

    def _place(self, index: int) -> tuple[Images, int]:
        first = len(self.parts[0])
        return (self.parts[0], index) if index < first else (self.parts[1], index - first)

    def choose_labels(self, keys: LabelKeys, forces: bool, stress: bool = False) -> Choice:
        """Find out from some images to train on under which names the labels are."""
        return choose_labels(self.parts[0], keys, forces=forces, stress=stress)

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, str, str, Atoms]]:
        """Read images in ascending order, as index, hash, name and atoms; then close the files."""
        for index, atoms in self.look(indices):
            name = self.name(index)
            if isinstance(atoms, ImageError):
                raise ImageError(f"{name}: {atoms}")
            yield index, digest_image(atoms).hex(), name, atoms

    def look(self, indices: Sequence[int]) -> Iterator[tuple[int, Atoms | ImageError]]:
        """Read images in ascending order, or why one cannot be read; then close the files."""
        start = 0
        for part in self.parts:
            inside = [index - start for index in indices if 0 <= index - start < len(part)]
            for index, atoms in part.read_many(inside, results=True):
                yield start + index, atoms
            part.close()
            start += len(part)


def open_pool(comm: Communicator, images: Any, validation: Any = None) -> Pool:
    """Open images on every rank; files are looked through by rank 0 alone."""
    parts: list[Images] = []
    for given in (images,) if validation is None else (images, validation):
        names = file_names(given)
        if names is None:
            parts.append(on_all(comm, partial(open_images, given)))
        else:
            parts.append(agree(comm, partial(open_images, names)))
    return Pool(parts)


def reusable(images: Any) -> Any:
    """Return images that can be gone through several times, hashed ones as often as they came."""
    if isinstance(images, Iterator):
        return list(images)
    if isinstance(images, Mapping):
        copies = getattr(images, "metadata", {}).get("duplicates", {})
        return [atoms for key, atoms in images.items() for _ in range(copies.get(key, 1))]
    return images
