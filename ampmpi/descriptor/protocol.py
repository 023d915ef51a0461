"""What a descriptor is: all that jobs, databases, trainings and calculators know of one."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ..entries import Fingerprint, FingerprintPrimes, forces_of
from ..errors import DescriptorError

if TYPE_CHECKING:
    from ase import Atoms

NEEDED = (
    "parameters", "digest", "elements", "n_features", "resolve", "predict_cost", "fingerprint",
    "calculate", "fingerprint_primes", "contract",
)  # fmt: skip
"""What an object needs in order to be a descriptor."""


class Descriptor(Protocol):
    """Turns an image into a fingerprint.

    Any object with these attributes is one. A class that names this one as its base has to
    write those without a default only, and inherits the others.

    Besides, the following are used where they are there: ``dblabel``, the prefix of shared
    databases; ``has_derivatives``, False for a descriptor of energies alone; ``has_kernels``,
    True where `warm_up` of the package compiles what it runs; ``in_words``, a few words for
    reports; and ``feature_names(element)``, one text for each feature.
    """

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, Any]:
        """All settings, of plain JSON values, with ``importname`` and ``elements``.

        Databases and ``.amp`` files keep them. The importname says whose they are; nothing is
        imported because of it.
        """

    @property
    def digest(self) -> str:
        """Text that differs where numbers do; by default a SHA-256 over the parameters."""
        return digest_of(self.parameters)

    @property
    @abstractmethod
    def elements(self) -> tuple[str, ...] | None:
        """Elements that can be centres, sorted; None while they are not known."""

    @property
    @abstractmethod
    def n_features(self) -> Mapping[str, int]:
        """Number of features of each element."""

    @abstractmethod
    def resolve(self, elements: Iterable[str]) -> Self:
        """Return the descriptor with these elements where it was made without; else itself."""

    def predict_cost(self, atoms: Atoms) -> float:
        """Return how long an image takes, compared with others; by default its number of atoms."""
        return float(len(atoms))

    @abstractmethod
    def fingerprint(self, atoms: Atoms) -> Fingerprint:
        """Return the fingerprint of one image.

        Raises
        ------
        ImageError
            When the image cannot be used; the job names it and does the others.
        """

    @abstractmethod
    def calculate(self, atoms: Atoms) -> tuple[Fingerprint, FingerprintPrimes]:
        """Return fingerprint and derivatives of one image; errors as `fingerprint`."""

    def fingerprint_primes(self, atoms: Atoms) -> FingerprintPrimes:
        """Return the derivatives of one image's fingerprint; errors as `fingerprint`."""
        return self.calculate(atoms)[1]

    def contract(
        self, atoms: Atoms, dE_dG: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return forces and virial from the derivative of an energy by the features.

        By default the forces are made of the derivatives, and there is no virial: where a
        stress is asked for, it is found by differences.

        Parameters
        ----------
        atoms : Atoms
            The image.
        dE_dG : (n_atoms, max_features) float array, eV
            Derivative of the energy by each feature of each atom.

        Returns
        -------
        forces : (n_atoms, 3) float array, eV/Å
            Forces on the atoms.
        virial : (3, 3) float array, eV, or None
            Derivative of the energy by strain; divided by the volume, the stress.
        """
        return forces_of(self.fingerprint_primes(atoms), dE_dG), None

    def strain_derivatives(self, atoms: Atoms) -> NDArray[np.float64]:
        """Return the derivatives of the features by strain; by default found by differences.

        Parameters
        ----------
        atoms : Atoms
            The image.

        Returns
        -------
        (n_atoms, 6, max_features) float array
            By symmetric strains, in the order of `VOIGT`: contracted with an energy's
            derivative by the features they are its virial, V times the stress.
        """
        return strains_by_differences(self, atoms)


STRAIN = 1e-5
"""Step of differences by strain: small enough for its square, large enough for rounding."""

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Rows and columns of a stress's components, in ASE's order: xx, yy, zz, yz, xz, xy."""


def strain_derivatives(descriptor: Descriptor, atoms: Atoms) -> NDArray[np.float64]:
    """Return the derivatives of an image's features by strain, whatever the descriptor is.

    What is no subclass of `Descriptor` need not have the method; errors are those of
    `fingerprint`.
    """
    if hasattr(descriptor, "strain_derivatives"):
        return descriptor.strain_derivatives(atoms)
    return strains_by_differences(descriptor, atoms)


def strains_by_differences(descriptor: Descriptor, atoms: Atoms) -> NDArray[np.float64]:
    """Return `Descriptor.strain_derivatives` from the fingerprints of 12 strained images."""
    columns = []
    for a, b in VOIGT:
        strain = np.zeros((3, 3))
        strain[a, b] = strain[b, a] = STRAIN if a == b else STRAIN / 2
        ends = [
            descriptor.fingerprint(_strained(atoms, np.eye(3) + sign * strain)).values
            for sign in (1.0, -1.0)
        ]
        columns.append((ends[0] - ends[1]) / (2 * STRAIN))
    return np.stack(columns, axis=1)


def virial_by_differences(
    descriptor: Descriptor, atoms: Atoms, dE_dG: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the derivative of an energy by strain from the fingerprints of 12 strained images.

    Parameters
    ----------
    descriptor : Descriptor
        Its features do not change when an image is turned.
    atoms : Atoms
        The image.
    dE_dG : (n_atoms, max_features) float array, eV
        Derivative of the energy by each feature of each atom.

    Returns
    -------
    (3, 3) float array, eV
        Symmetric.
    """
    virial = np.zeros((3, 3))
    components = np.einsum("nvf,nf->v", strain_derivatives(descriptor, atoms), dE_dG)
    for (a, b), component in zip(VOIGT, components, strict=True):
        virial[a, b] = virial[b, a] = component
    return virial


def _strained(atoms: Atoms, deformation: NDArray[np.float64]) -> Atoms:
    from ase import Atoms

    return Atoms(
        numbers=atoms.numbers,
        positions=atoms.positions @ deformation,
        cell=atoms.cell.array @ deformation,
        pbc=atoms.pbc,
    )


def digest_of(parameters: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of parameters as JSON.

    Raises
    ------
    DescriptorError
        They hold something else than JSON values.
    """
    return hashlib.sha256(as_json(parameters).encode()).hexdigest()


def as_json(parameters: Any) -> str:
    """Return parameters as JSON, alike ones as the same text; `DescriptorError` if they are none.

    It is the error of what is no JSON value, and of numbers that are not finite.
    """
    try:
        return json.dumps(parameters, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DescriptorError(
            f"the descriptor's parameters cannot be kept ({error}): give plain finite numbers, "
            "strings, lists and dictionaries."
        ) from error


def require_descriptor(given: Any) -> Descriptor:
    """Return what is given; `DescriptorError` where it is no descriptor."""
    example = "give an object such as Gaussian(...)"
    if isinstance(given, type) or not hasattr(given, "fingerprint"):
        raise DescriptorError(f"the descriptor is {given!r}; {example}")
    # Not on the object itself: some of its attributes cannot be computed yet.
    has = {*dir(type(given)), *getattr(given, "__dict__", ())}
    if lacking := [name for name in NEEDED if name not in has]:
        raise DescriptorError(
            f"the descriptor is {given!r}, which lacks {', '.join(lacking)}; {example}, or let its "
            "class inherit from ampmpi.Descriptor"
        )
    found: Descriptor = given
    return found


def has_derivatives(descriptor: Descriptor) -> bool:
    """Whether a descriptor has derivatives, so that forces can be trained and predicted."""
    return bool(getattr(descriptor, "has_derivatives", True))


def has_kernels(descriptor: Descriptor) -> bool:
    """Whether a descriptor runs compiled kernels of this package."""
    return bool(getattr(descriptor, "has_kernels", False))


def in_words(descriptor: Descriptor) -> str:
    """Return a few words for a descriptor: its own, or the end of its importname."""
    words = getattr(descriptor, "in_words", None)
    return str(words or str(descriptor.parameters.get("importname", "")).rpartition(".")[2])


def feature_names(descriptor: Descriptor, element: str) -> list[str] | None:
    """Return a text for each feature of an element; None where the descriptor has none."""
    names = getattr(descriptor, "feature_names", None)
    return None if names is None else list(names(element))
