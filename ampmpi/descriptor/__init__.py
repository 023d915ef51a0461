"""Gaussian fingerprints: parameters, cutoffs, neighbour lists and kernels.

Importing this package costs next to nothing: the compiled kernels, and numba
with them, are imported when the first fingerprint is computed.
"""

from __future__ import annotations

from .cutoffs import Cosine, Polynomial
from .gaussian import Gaussian
from .symmetry import make_default_symmetry_functions, make_symmetry_functions
from .warmup import compile_count, warm_up

__all__ = [
    "Cosine",
    "Gaussian",
    "Polynomial",
    "compile_count",
    "make_default_symmetry_functions",
    "make_symmetry_functions",
    "warm_up",
]
