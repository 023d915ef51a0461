"""Amp's fingerprint databases and potentials as MPI-parallel batch jobs."""

from __future__ import annotations

import contextlib
import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ampmpi.calculator import Amp
    from ampmpi.committee import Committee
    from ampmpi.database import FingerprintDatabase
    from ampmpi.descriptor import (
        Cosine,
        Custom,
        Descriptor,
        Gaussian,
        Polynomial,
        Zernike,
        make_symmetry_functions,
    )
    from ampmpi.errors import SpreadError, TrainingConvergenceError
    from ampmpi.evaluation import Evaluation, evaluate
    from ampmpi.fingerprinting import fingerprint
    from ampmpi.images import hash_image, hash_images
    from ampmpi.model import LossFunction, NeuralNetwork, Regressor
    from ampmpi.selection import Selection, SpreadObserver, SpreadWatch, select, spread_quantile

__version__ = "0.1.0"

_HOME = {
    "Amp": "calculator",
    "Committee": "committee",
    "Cosine": "descriptor",
    "Custom": "descriptor",
    "Descriptor": "descriptor",
    "Evaluation": "evaluation",
    "FingerprintDatabase": "database",
    "Gaussian": "descriptor",
    "LossFunction": "model",
    "NeuralNetwork": "model",
    "Polynomial": "descriptor",
    "Regressor": "model",
    "Selection": "selection",
    "SpreadError": "errors",
    "SpreadObserver": "selection",
    "SpreadWatch": "selection",
    "TrainingConvergenceError": "errors",
    "Zernike": "descriptor",
    "evaluate": "evaluation",
    "fingerprint": "fingerprinting",
    "hash_image": "images",
    "hash_images": "images",
    "make_symmetry_functions": "descriptor",
    "select": "selection",
    "spread_quantile": "selection",
}

__all__ = [
    "Amp",
    "Committee",
    "Cosine",
    "Custom",
    "Descriptor",
    "Evaluation",
    "FingerprintDatabase",
    "Gaussian",
    "LossFunction",
    "NeuralNetwork",
    "Polynomial",
    "Regressor",
    "Selection",
    "SpreadError",
    "SpreadObserver",
    "SpreadWatch",
    "TrainingConvergenceError",
    "Zernike",
    "evaluate",
    "fingerprint",
    "hash_image",
    "hash_images",
    "make_symmetry_functions",
    "select",
    "spread_quantile",
]


@cache
def _begin_script() -> None:
    """Start MPI for a script on several ranks before it does anything with ASE.

    ASE decides when it first touches a file whether the ranks write it together or each
    for itself. From here on an error of one rank ends them all. A launch that is wrong is
    told of when the ranks are needed.
    """
    from ampmpi.errors import LaunchError
    from ampmpi.parallel import launch

    launch.prepare()
    if launch.several_ranks():
        from ampmpi.parallel.comm import world
        from ampmpi.parallel.failure import install_excepthook

        with contextlib.suppress(LaunchError):
            install_excepthook(world())


def __dir__() -> list[str]:
    """Return the public names, too, also before they are used."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: no command loads what it does not need."""
    if name not in _HOME:
        raise AttributeError(f"module 'ampmpi' has no attribute {name!r}")
    _begin_script()
    value = getattr(importlib.import_module(f"ampmpi.{_HOME[name]}"), name)
    globals()[name] = value
    return value
