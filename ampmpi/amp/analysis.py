"""Amp's ``amp.analysis``."""

from __future__ import annotations

from ampmpi.amp._errors import calc_rmse, plot_parity_and_error, plot_sensitivity
from ampmpi.amp._trainlog import plot_convergence, read_trainlog

__all__ = [
    "calc_rmse",
    "plot_convergence",
    "plot_parity_and_error",
    "plot_sensitivity",
    "read_trainlog",
]
