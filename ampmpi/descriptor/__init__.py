"""Descriptors: parameters, cutoff functions, neighbour lists and kernels.

What the rest of the package uses is named here. Importing it costs next to
nothing: the compiled kernels, and numba with them, are imported when the first
fingerprint is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .amp_methods import EntriesByKey
from .atom_centered import AtomCentered, can_share_neighbors
from .candidates import candidates_among
from .checks import check_numbers, check_overlap
from .custom import Custom
from .cutoffs import Cosine, Polynomial, as_cutoff
from .gaussian import Gaussian
from .once import fingerprint_once
from .protocol import (
    Descriptor,
    feature_names,
    has_derivatives,
    has_kernels,
    in_words,
    require_descriptor,
    strain_derivatives,
    virial_by_differences,
)
from .registry import from_parameters, from_toml, is_known, register
from .symmetry_functions import make_default_symmetry_functions, make_symmetry_functions
from .warmup import compile_count, warm_up
from .zernike import Zernike

if TYPE_CHECKING:
    from .neighbors import NeighborList
    from .verlet import VerletList

__all__ = [
    "AtomCentered",
    "Cosine",
    "Custom",
    "Descriptor",
    "EntriesByKey",
    "Gaussian",
    "NeighborList",
    "Polynomial",
    "VerletList",
    "Zernike",
    "as_cutoff",
    "can_share_neighbors",
    "candidates_among",
    "check_numbers",
    "check_overlap",
    "compile_count",
    "feature_names",
    "fingerprint_once",
    "from_parameters",
    "from_toml",
    "has_derivatives",
    "has_kernels",
    "in_words",
    "is_known",
    "make_default_symmetry_functions",
    "make_symmetry_functions",
    "register",
    "require_descriptor",
    "strain_derivatives",
    "virial_by_differences",
    "warm_up",
]
