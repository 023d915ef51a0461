"""scipy's optimisers in blocks that can be resumed bit by bit.

scipy exposes no state to resume from, but its optimisers are deterministic: the same values
and gradients lead them the same way. So the journal of a block, what was evaluated since its
start, is all the state there is. A restart runs the optimiser again from the block's first
point, hands it what the journal holds, and evaluates only what is new. Every block starts
with fresh history, which bounds the journal; undisturbed runs have the same blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ampmpi.model.layers import Array
from ampmpi.model.settings import Regressor

# Iterations of a block. BFGS needs about as many as there are parameters to learn the curvature.
BLOCK = 1000

# A block that lowers the loss by less than this fraction ends the optimisation.
LEAST_PROGRESS = 1e-12


class StopOptimisation(Exception):
    """Raised by `observe` to end the optimisation; passes through scipy."""


@dataclass
class Journal:
    """Where an optimisation stands.

    Attributes
    ----------
    start : (n_parameters,) float array
        First point of the block.
    iterations : int
        Iterations done in the blocks before it.
    points : list of (n_parameters,) float arrays
        Points evaluated in the block.
    losses : list of float
        Their losses.
    gradients : list of (n_parameters,) float arrays
        Their gradients; empty arrays for an optimiser without.
    """

    start: Array
    iterations: int = 0
    points: list[Array] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    gradients: list[Array] = field(default_factory=list)

    def arrays(self) -> dict[str, Array]:
        """Return the journal as arrays, for a checkpoint."""
        return {
            "block_start": self.start,
            "block_iterations": np.array(float(self.iterations)),
            "points": _rows(self.points),
            "losses": np.array(self.losses),
            "gradients": _rows(self.gradients),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Journal:
        """Rebuild a journal from `arrays`."""
        return cls(
            arrays["block_start"],
            int(arrays["block_iterations"]),
            list(arrays["points"]),
            arrays["losses"].tolist(),
            list(arrays["gradients"]),
        )


def _rows(vectors: list[Array]) -> Array:
    return np.array(vectors) if vectors else np.empty((0, 0))


Evaluate = Callable[[Array], tuple[float, Array]]


def optimise(
    evaluate: Evaluate,
    observe: Callable[[], None],
    journal: Journal,
    regressor: Regressor,
    block: int = BLOCK,
) -> None:
    """Lower the loss until `observe` raises `StopOptimisation` or no progress is possible.

    Parameters
    ----------
    evaluate : callable
        Takes a point, returns loss and gradient. Called for each point that the journal
        does not hold.
    observe : callable
        Called after each such point has been entered into the journal, which can then
        be saved.
    journal : Journal
        Where to start; kept up to date.
    regressor : Regressor
        The optimiser.
    block : int
        Iterations between fresh starts.
    """
    from scipy.optimize import minimize

    keywords = dict(regressor.optimizer_kwargs)
    own = not isinstance(regressor.optimizer, str)
    minimiser: Any = regressor.optimizer if own else minimize
    limit = (keywords.get("options") or {}).get("maxiter")
    while True:
        options = dict(keywords.get("options") or {})
        if not own:
            left = block if limit is None else min(block, limit - journal.iterations)
            if left <= 0:
                return
            options["maxfun" if regressor.optimizer == "TNC" else "maxiter"] = left
            keywords["options"] = options
        replay = _Replay(evaluate, observe, journal, regressor.lossprime)
        result = minimiser(replay, journal.start.copy(), jac=regressor.lossprime, **keywords)
        if own:
            return
        first = journal.losses[0]
        if not result.fun < first - LEAST_PROGRESS * abs(first):
            return
        journal.iterations += max(int(result.nit), 1)
        journal.start = np.array(result.x, dtype=float)
        journal.points.clear()
        journal.losses.clear()
        journal.gradients.clear()


class _Replay:
    """The function that scipy sees: answers from the journal, then from `evaluate`."""

    def __init__(
        self,
        evaluate: Evaluate,
        observe: Callable[[], None],
        journal: Journal,
        gradient: bool,
    ) -> None:
        self.evaluate = evaluate
        self.observe = observe
        self.journal = journal
        self.gradient = gradient
        self.calls = 0

    def __call__(self, point: Array, *args: Any) -> Any:
        journal, i = self.journal, self.calls
        self.calls += 1
        if i < len(journal.points) and not np.array_equal(journal.points[i], point):
            # another scipy or processor than the one that wrote the journal: go on from here
            del journal.points[i:], journal.losses[i:], journal.gradients[i:]
        if i == len(journal.points):
            point = np.array(point, dtype=float)
            loss, gradient = self.evaluate(point)
            journal.points.append(point)
            journal.losses.append(loss)
            journal.gradients.append(gradient if self.gradient else np.zeros(0))
            self.observe()
        loss, gradient = journal.losses[i], journal.gradients[i]
        return (loss, gradient.copy()) if self.gradient else loss
