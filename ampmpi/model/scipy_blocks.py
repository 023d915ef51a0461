"""scipy's optimisers in blocks that can be resumed bit by bit.

scipy exposes no state to resume from, but its optimisers are deterministic: the same values
and gradients lead them the same way. So the journal of a block, what was evaluated since its
start, is all the state there is. A restart runs the optimiser again from the block's first
point, hands it what the journal holds, and evaluates only what is new. Every block starts
with fresh history, which bounds the journal; undisturbed runs have the same blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ampmpi.model.layers import Array
from ampmpi.model.settings import Regressor

Evaluate = Callable[[Array], tuple[float, Array]]
"""Takes a point, returns loss and gradient; the gradient is empty where none is asked for."""

# A block that lowers the loss by less than this fraction ends the optimisation.
LEAST_PROGRESS = 1e-12


class ScipyBlocks:
    """One of scipy's optimisers, or a function that is called as scipy's ``minimize`` is.

    The parameters are those of `ampmpi.model.optimise.make_optimiser`.
    """

    def __init__(
        self,
        regressor: Regressor,
        start: Array,
        block: int,
        state: Mapping[str, Array] | None = None,
    ) -> None:
        self.regressor = regressor
        self.block = block
        self.start = start.copy()
        self.iterations = 0
        self.points: list[Array] = []
        self.losses: list[float] = []
        self.gradients: list[Array] = []
        if state is not None:
            self._resume(state)

    def state(self) -> dict[str, Array]:
        """Return where the optimisation stands: the block's start and its journal."""
        return {
            "start": self.start,
            "iterations": np.array(float(self.iterations)),
            "points": _rows(self.points),
            "losses": np.array(self.losses),
            "gradients": _rows(self.gradients),
        }

    def _resume(self, state: Mapping[str, Array]) -> None:
        n, count = len(self.start), len(state["losses"])
        width = n if self.regressor.lossprime else 0
        fits = (
            state["start"].shape == (n,)
            and state["losses"].ndim == 1
            and (count == 0 or state["points"].shape == (count, n))
            and (count == 0 or state["gradients"].shape == (count, width))
        )
        if not fits:
            raise ValueError("the optimiser's journal does not fit the parameters")
        self.start = state["start"]
        self.iterations = int(state["iterations"])
        if count:
            self.points, self.gradients = list(state["points"]), list(state["gradients"])
            self.losses = state["losses"].tolist()

    def run(
        self, evaluate: Evaluate, observe: Callable[[], None], residuals: object = None
    ) -> None:
        """Lower the loss until `observe` raises, or no progress is possible.

        Both functions are called for points that the journal does not hold, `observe` after
        they are entered into it. `residuals` are not used.
        """
        from scipy.optimize import minimize

        regressor = self.regressor
        keywords = dict(regressor.optimizer_kwargs)
        own = not isinstance(regressor.optimizer, str)
        minimiser: Any = regressor.optimizer if own else minimize
        limit = (keywords.get("options") or {}).get("maxiter")
        while True:
            options = dict(keywords.get("options") or {})
            if not own:
                left = self.block if limit is None else min(self.block, limit - self.iterations)
                if left <= 0:
                    return
                options["maxfun" if regressor.optimizer == "TNC" else "maxiter"] = left
                keywords["options"] = options
            function = self._replayed(evaluate, observe)
            result = minimiser(function, self.start.copy(), jac=regressor.lossprime, **keywords)
            if own:
                return
            first = self.losses[0]
            if not result.fun < first - LEAST_PROGRESS * abs(first):
                return
            self.iterations += max(int(result.nit), 1)
            self.start = np.array(result.x, dtype=float)
            self.points, self.losses, self.gradients = [], [], []

    def _replayed(self, evaluate: Evaluate, observe: Callable[[], None]) -> Callable[..., Any]:
        """Return the function that scipy sees: it answers from the journal, then evaluates."""
        calls = 0
        with_gradient = self.regressor.lossprime

        def function(point: Array, *args: Any) -> Any:
            nonlocal calls
            i = calls
            calls += 1
            if i < len(self.points) and not np.array_equal(self.points[i], point):
                # another scipy or processor than the one that wrote the journal: go on from here
                del self.points[i:], self.losses[i:], self.gradients[i:]
            if i == len(self.points):
                point = np.array(point, dtype=float)
                loss, gradient = evaluate(point)
                self.points.append(point)
                self.losses.append(loss)
                self.gradients.append(gradient if with_gradient else np.zeros(0))
                observe()
            loss, gradient = self.losses[i], self.gradients[i]
            return (loss, gradient.copy()) if with_gradient else loss

        return function


def _rows(vectors: list[Array]) -> Array:
    return np.array(vectors) if vectors else np.empty((0, 0))
