"""Amp's fingerprint databases and potentials as MPI-parallel batch jobs."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Amp": "calculator",
    "Cosine": "descriptor",
    "FingerprintDatabase": "database",
    "Gaussian": "descriptor",
    "LossFunction": "model",
    "NeuralNetwork": "model",
    "Polynomial": "descriptor",
    "Regressor": "model",
    "TrainingConvergenceError": "errors",
    "fingerprint": "fingerprinting",
    "hash_image": "images",
    "hash_images": "images",
    "make_symmetry_functions": "descriptor",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: no command loads what it does not need."""
    if name not in _HOME:
        raise AttributeError(f"module 'ampmpi' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ampmpi.{_HOME[name]}"), name)
    globals()[name] = value
    return value
