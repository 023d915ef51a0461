"""The fingerprint of an image that several calculators need is computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.entries import Fingerprint


def fingerprint_once(
    descriptor: Any, atoms: Atoms, described: dict[str, Fingerprint] | None
) -> Fingerprint:
    """Return the fingerprint of an image, computed unless it is in `described` already.

    Parameters
    ----------
    descriptor : Descriptor
        The descriptor.
    atoms : ase.Atoms
        The image.
    described : dict of str to Fingerprint or None
        Fingerprints of this image by digests of descriptors; a new one is added.
    """
    if described is None:
        fingerprint: Fingerprint = descriptor.fingerprint(atoms)
        return fingerprint
    if descriptor.digest not in described:
        described[descriptor.digest] = descriptor.fingerprint(atoms)
    return described[descriptor.digest]
