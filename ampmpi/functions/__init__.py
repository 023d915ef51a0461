"""Symmetry functions that fit a set of images.

`candidates` makes grids of functions from the distances in the set, `moments` computes
what they do in a sample of its images, each rank in its share, `choose` selects the few
that explain energies and forces best, and `make` does all of it.
"""

from __future__ import annotations

from ampmpi.functions.make import FunctionChoice, make_for_training, make_functions

__all__ = ["FunctionChoice", "make_for_training", "make_functions"]
