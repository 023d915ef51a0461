"""Amp's ``amp.descriptor.gaussian``."""

from __future__ import annotations

from ampmpi.amp._left_out import refuser
from ampmpi.descriptor import Gaussian, make_default_symmetry_functions, make_symmetry_functions

__all__ = ["Gaussian", "make_default_symmetry_functions", "make_symmetry_functions"]

__getattr__ = refuser("descriptor.gaussian")
