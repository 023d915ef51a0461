"""Optimisers by name, behind one small interface.

An optimiser is made from a start vector or from the state of an interrupted run. It is handed
the loss and a function to call after each evaluation; its state goes into the checkpoint, and a
run that goes on from it takes the same way, bit by bit. Another optimiser is one more module
and one more line in `OPTIMISERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ampmpi.model.gauss_newton import Evaluate, GaussNewton, Options, Residuals
from ampmpi.model.layers import Array
from ampmpi.model.scipy_blocks import ScipyBlocks
from ampmpi.model.settings import OPTIMIZERS, Regressor

# Iterations of a block. BFGS needs about as many as there are parameters to learn the curvature.
BLOCK = 1000


class StopOptimisation(Exception):
    """Raised by `observe` to end an optimisation; passes through the optimiser."""


class Optimiser(Protocol):
    """A way to lower a loss."""

    def run(self, evaluate: Evaluate, observe: Callable[[], None], residuals: Residuals) -> None:
        """Lower the loss until `observe` raises, or no progress is possible.

        `evaluate` takes a point and returns loss and gradient. `observe` is called after each
        evaluation, when `state` includes it. `residuals` are what the loss is made of.
        """

    def state(self) -> dict[str, Array]:
        """Return where the optimisation stands, as arrays of floats."""


OPTIMISERS: dict[str, Callable[..., Optimiser]] = {
    **dict.fromkeys(OPTIMIZERS, ScipyBlocks),
    "gauss-newton": GaussNewton,
}
"""What makes the optimiser of a name, from regressor, start, block and state."""


def check_optimiser(regressor: Regressor) -> None:
    """Refuse a regressor whose optimiser would not take its options, with `InputError`."""
    if regressor.optimizer == "gauss-newton":
        Options.of(regressor)


def make_optimiser(
    regressor: Regressor,
    start: Array,
    block: int = BLOCK,
    state: Mapping[str, Array] | None = None,
) -> Optimiser:
    """Make the optimiser that a regressor names.

    Parameters
    ----------
    regressor : Regressor
        Its name, or a function that is called as scipy's ``minimize`` is, and its keywords.
    start : (n_parameters,) float array
        Where to start.
    block : int
        Iterations between fresh starts.
    state : mapping of str to array, optional
        State of the run to go on with.

    Raises
    ------
    KeyError, ValueError
        The state is not one that the optimiser has returned.
    """
    name = regressor.optimizer
    make = OPTIMISERS[name] if isinstance(name, str) else ScipyBlocks
    return make(regressor, start, block, state)
