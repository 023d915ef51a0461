"""Where a fit starts and how it ends, as checkpoints tell of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ampmpi.model import NeuralNetwork
from ampmpi.model.checkpoint import Checkpoint
from ampmpi.model.layers import Array
from ampmpi.model.settings import LossFunction
from ampmpi.training.curve import Step
from ampmpi.training.settings import Schedule

CONVERGED, MAXITER, EARLY, STALLED = "converged", "maxiter", "early stopping", "stalled"

FPRANGE = "fprange."


@dataclass(frozen=True, eq=False)
class FitResult:
    """End of a fit.

    Attributes
    ----------
    outcome : str
        'converged', 'maxiter', 'early stopping' or 'stalled'.
    vector : (n_parameters,) float array
        The parameters: those that converged; else those with the smallest validation
        loss, or training loss without a validation set.
    best : Step
        Errors at these parameters.
    steps : int
        Evaluations of the loss.
    """

    outcome: str
    vector: Array
    best: Step
    steps: int


@dataclass(frozen=True, eq=False)
class Start:
    """Where a fit starts; see `ampmpi.training.earlier`.

    Attributes
    ----------
    settings : dict
        What determines the fit; kept in its checkpoint.
    goes_on : bool
        Whether there is a checkpoint of this fit to go on from.
    result : FitResult or None
        Its end, where the checkpoint tells that it is finished.
    fprange : mapping of str to (n_features, 2) float array, or None
        Ranges of the features that the model had; None where they are still to be found.
    vector : (n_parameters,) float array or None
        Parameters to start with; None leaves the model those it has.
    """

    settings: dict[str, Any]
    goes_on: bool = False
    result: FitResult | None = None
    fprange: Mapping[str, Array] | None = None
    vector: Array | None = None

    def apply(self, model: NeuralNetwork) -> None:
        """Give a model the ranges and parameters."""
        if self.fprange is not None:
            model.fprange = dict(self.fprange)
        if self.vector is not None:
            model.vector = self.vector


def ends_of(limits: LossFunction, schedule: Schedule) -> dict[str, Any]:
    """Return what decides when a fit ends; a restart with other values goes on from the end."""
    return {
        "convergence": dict(limits.convergence) if limits.raise_ConvergenceOccurred else None,
        "maxiter": limits.maxiter,
        "patience": schedule.patience,
    }


def result_of(known: Checkpoint) -> FitResult | None:
    """Return the end that a checkpoint tells of; None where the fit is not finished."""
    if known.state["outcome"] is None:
        return None
    return FitResult(
        known.state["outcome"],
        known.arrays["end_vector"],
        step_of(known.arrays["end"]),
        known.state["steps"],
    )


def digest_of(vector: Array) -> str:
    """Return what tells the parameters of a result from others."""
    return hashlib.md5(vector.tobytes(), usedforsecurity=False).hexdigest()


def step_of(values: Array) -> Step:
    """Return a step from its numbers in a checkpoint."""
    return Step(int(values[0]), *values[1:].tolist())


def checkpoint_of(label: str) -> str:
    """Return the name of the checkpoint of a fit with a label."""
    return f"{label}-checkpoint.npz"
