"""Amp's ``amp.descriptor.cutoffs``."""

from __future__ import annotations

from ampmpi.descriptor import Cosine, Polynomial
from ampmpi.descriptor import as_cutoff as dict2cutoff

__all__ = ["Cosine", "Polynomial", "dict2cutoff"]
