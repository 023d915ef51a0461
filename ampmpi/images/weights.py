"""How much images and atoms count in a training.

An image may carry weights under the names that MACE gives them: ``config_weight`` for all that
it is to teach, ``config_energy_weight``, ``config_forces_weight`` and ``config_stress_weight``
for one kind of label. Its ``config_type`` and an array with a weight for each atom can have
weights, too. What concerns a label is multiplied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import InputError
from ampmpi.images.labels import KINDS, LabelError
from ampmpi.text import plain

if TYPE_CHECKING:
    from ase import Atoms

KEY = "config_weight"
KEYS_BY_KIND = {kind: f"config_{kind}_weight" for kind in KINDS}

TYPE = "config_type"
NO_TYPE = "Default"
"""The type of images that name none, as in MACE."""


@dataclass(frozen=True)
class Weighting:
    """Where weights are found.

    Attributes
    ----------
    key : str or None
        Name of the images' weights; None stands for ``config_weight``, which need not be there.
    atom_key : str or None
        Name of an array with the weights of atoms.
    types : mapping of str to float
        Weights of images by their ``config_type``; 1 for those that are not named.
    """

    key: str | None = None
    atom_key: str | None = None
    types: Mapping[str, float] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse weights of types that are none.

        Raises
        ------
        InputError
            The message names it.
        """
        if not isinstance(self.types, Mapping):
            raise InputError(f"type_weights is {self.types!r}; give a dict such as {{'bulk': 2.0}}")
        for name, weight in self.types.items():
            try:
                _checked(np.asarray(weight), ())
            except ValueError as error:
                raise InputError(
                    f"the weight of the {TYPE} {plain(str(name), 60)!r} is {weight!r}, which is "
                    f"{error}; give a number of at least 0"
                ) from None


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of what one image is to teach.

    Attributes
    ----------
    energy, stress : float
        Those of its energy and its stress.
    forces : (n_atoms,) float array
        Those of its atoms' forces.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: float

    def digest(self, key: str) -> bytes:
        """Return 16 bytes that change with any of them, and with the image's key."""
        numbers = np.concatenate([[self.energy, self.stress], self.forces])
        return hashlib.md5(key.encode() + numbers.tobytes(), usedforsecurity=False).digest()


def weights_of(
    atoms: Atoms, weighting: Weighting, *, forces: bool = True, stress: bool = True
) -> Weights | None:
    """Return the weights of an image; None where all of them are 1.

    Where no `forces` or no `stress` are trained, their weights are not looked at.

    Raises
    ------
    LabelError
        One is negative, not finite, no number or of a wrong shape.
    """
    whole = _number(atoms, weighting.key or KEY) * weighting.types.get(type_of(atoms), 1.0)
    energy = whole * _number(atoms, KEYS_BY_KIND["energy"])
    by_atom = np.ones(len(atoms))
    if forces:
        by_atom *= whole * _number(atoms, KEYS_BY_KIND["forces"])
        if weighting.atom_key is not None:
            by_atom *= _array(atoms, weighting.atom_key, (len(atoms),))
    virial = whole * _number(atoms, KEYS_BY_KIND["stress"]) if stress else 1.0
    if energy == 1.0 and virial == 1.0 and (by_atom == 1.0).all():
        return None
    return Weights(energy, by_atom, virial)


def type_of(atoms: Atoms) -> str:
    """Return an image's type."""
    found = _lookup(atoms, TYPE)
    return NO_TYPE if found is None else str(found)


def names_of(atoms: Atoms, weighting: Weighting) -> list[str]:
    """Return under which names an image carries weights."""
    names = [weighting.key or KEY, *KEYS_BY_KIND.values()]
    names += [] if weighting.atom_key is None else [weighting.atom_key]
    return [name for name in names if _lookup(atoms, name) is not None]


def _lookup(atoms: Atoms, name: str) -> Any:
    """Return what an image has under a name, beside its calculator's results; else None."""
    rows = (atoms.info.get(place) for place in ("key_value_pairs", "data"))
    for place in (atoms.info, atoms.arrays, *(row for row in rows if isinstance(row, Mapping))):
        if place.get(name) is not None:
            return place[name]
    return None


def _number(atoms: Atoms, name: str) -> float:
    return float(_array(atoms, name, ()))


def _array(atoms: Atoms, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a weight, or one for each atom; 1 where there is none."""
    value = _lookup(atoms, name)
    if value is None:
        return np.ones(shape)
    called = plain(name, 60)
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        raise LabelError(f"has a {called} of a wrong shape") from None
    try:
        return _checked(array, shape)
    except ValueError as error:
        shown = f" ({plain(repr(array.item()), 40)})" if array.ndim == 0 else ""
        raise LabelError(f"has a {called} that is {error}", f"has a {called} that is {error}{shown}"
        ) from None  # fmt: skip


def _checked(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return weights as floats; `ValueError` says what is wrong with them."""
    if array.size == 1 and shape == ():
        array = array.reshape(())
    if array.shape != shape:
        raise ValueError(f"of shape {array.shape} where {shape or 'one number'} is expected")
    if array.dtype.kind not in "fiu":
        raise ValueError("not a number" if shape == () else "not made of numbers")
    if not np.isfinite(array).all():
        raise ValueError("not finite")
    if (array < 0).any():
        raise ValueError("negative")
    return array.astype(np.float64)
