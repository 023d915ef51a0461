"""Descriptors: parameters, cutoff functions, neighbour lists and kernels.

What the rest of the package uses is named here. Importing it costs next to
nothing: the compiled kernels, and numba with them, are imported when the first
fingerprint is computed.
"""

from __future__ import annotations

from .checks import check_numbers
from .cutoffs import Cosine, Polynomial
from .gaussian import Gaussian
from .once import fingerprint_once
from .symmetry_functions import make_default_symmetry_functions, make_symmetry_functions
from .warmup import compile_count, warm_up

__all__ = [
    "Cosine",
    "Gaussian",
    "Polynomial",
    "check_numbers",
    "compile_count",
    "fingerprint_once",
    "make_default_symmetry_functions",
    "make_symmetry_functions",
    "warm_up",
]
