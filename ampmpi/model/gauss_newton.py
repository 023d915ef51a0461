"""L-BFGS preconditioned by the Gauss-Newton matrix of the loss.

After some steps of plain L-BFGS it goes on in blocks. Each begins with A = JᵀJ at the best point,
from the energies and some of the forces (`ampmpi.model.jacobian`), and A + shift · mean(diag A)
is the Hessian from which L-BFGS starts, with a fresh history, on the whole loss with its exact
gradient. Above some 5,000 parameters A consists of blocks on its diagonal, one for the parameters
into each node. The scale of the inverse Hessian is that of the latest step (Nocedal and Wright,
Numerical Optimization, 2nd ed., 2006, equation 7.20), with A as the metric.

Where there are many more residuals than parameters, it starts on a part of the images, which
grows: the first steps ask little of the data.

The state is what is known at the last point that was accepted, and what was evaluated since. A
restart takes the same way from there, and computes A again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ampmpi.errors import InputError, ModelError
from ampmpi.model.layers import Array
from ampmpi.model.quasi_newton import curves_up, direction, line_search
from ampmpi.model.settings import Regressor

ENOUGH = 8
"""Residuals for each parameter with which a part of the images is enough to start with."""

BLOCKS = 3
"""Blocks on each part of the images."""

ROWS = 3.6
"""Rows of J for each parameter that are wanted; the images may have fewer."""

FRACTIONS = 0.05, 0.3
"""Least and largest fraction of the forces in A, where it is not all."""

LONGER, STIFFER = 20, 100.0
"""Of what is only blocks of A less is to be had: blocks of steps are so much longer, so that they
build on each other, and the shift so much larger."""

LEAST_PROGRESS = 1e-12
"""A block that lowers the loss by less than this fraction ends the optimisation."""

STEEPER = 1e3
"""What the shift is multiplied with where A is singular, or once where it leads nowhere."""


class Evaluate(Protocol):
    """Takes a point and which part of the images, returns loss and gradient."""

    def __call__(self, point: Array, part: int = 0, /) -> tuple[float, Array]:
        """Evaluate the loss."""


@dataclass(frozen=True)
class Residuals:
    """What the loss is the sum of squares of.

    Attributes
    ----------
    counts : tuple of int
        Number of residuals of the whole set, then of its ever smaller parts.
    matrix : callable
        Takes a point, a part of the set, a fraction of the forces and a round; returns JᵀJ, or
        blocks on its diagonal: (n, n) arrays in Fortran order whose lower triangle counts.
    blocks : sequence of slice
        The parameters of each block.
    """

    counts: tuple[int, ...]
    matrix: Callable[[Array, int, float, int], list[Array]]
    blocks: Sequence[slice]

    @property
    def is_whole(self) -> bool:
        """Whether the matrix is all of JᵀJ."""
        return len(self.blocks) == 1


@dataclass(frozen=True)
class Options:
    """Settings of the optimiser.

    Attributes
    ----------
    start : int
        Evaluations of plain L-BFGS.
    block : int
        Evaluations of a block, at the end of which A is computed anew.
    memory : int
        Steps that L-BFGS remembers.
    shift : float
        What is added to the diagonal of A, in units of its mean.
    """

    start: int = 60
    block: int = 60
    memory: int = 50
    shift: float = 3e-4

    @classmethod
    def of(cls, regressor: Regressor) -> Options:
        """Return the options of a regressor; `InputError` where they are wrong."""
        unknown = sorted(set(regressor.optimizer_kwargs) - {"method", "options"})
        if unknown:
            raise InputError(
                f"Regressor: gauss-newton takes options, not {unknown[0]!r}: give "
                "{'options': {…}}"
            )
        given = dict(regressor.optimizer_kwargs.get("options") or {})
        fields = cls.__dataclass_fields__
        for name, value in given.items():
            if name not in fields:
                raise InputError(
                    f"Regressor: gauss-newton has no option {name!r}; it takes {', '.join(fields)}"
                )
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise InputError(f"Regressor: {name} is {value!r}; give a number above 0")
            if name == "memory" and value < 1:
                raise InputError(f"Regressor: memory is {value!r}; give a number of steps")
        if not regressor.lossprime:
            raise InputError("Regressor: gauss-newton needs the gradient; leave lossprime out")
        return cls(**given)


@dataclass
class _Place:
    """Where the optimisation stands, but for its vectors."""

    part: float = -1.0  # of the images; -1 before the first evaluation
    round: float = 0.0  # how often A was computed
    count: float = 0.0  # evaluations in this block up to the last point
    blocks: float = 0.0  # blocks on this part
    shift: float = 1.0  # times the option
    first: float = 0.0  # loss where the block began


class GaussNewton:
    """The optimiser; its parameters are those of `ampmpi.model.optimise.make_optimiser`."""

    def __init__(
        self,
        regressor: Regressor,
        start: Array,
        block: int,
        state: Mapping[str, Array] | None = None,
    ) -> None:
        self.options = Options.of(regressor)
        self.point = start.copy()  # the last one that was accepted
        self.reference = start.copy()  # where A is computed
        self.steps: list[Array] = []
        self.changes: list[Array] = []
        self.losses: list[float] = []  # at the point, and at what was tried from there
        self.gradients: list[Array] = []
        self.place = _Place()
        self._factor: Factor | None = None
        if state is not None:
            self._resume(state)

    def state(self) -> dict[str, Array]:
        """Return where the optimisation stands."""
        return {
            "point": self.point,
            "reference": self.reference,
            "steps": np.array(self.steps).reshape(-1, len(self.point)),
            "changes": np.array(self.changes).reshape(-1, len(self.point)),
            "losses": np.array(self.losses),
            "gradients": np.array(self.gradients).reshape(-1, len(self.point)),
            "place": np.array([float(value) for value in vars(self.place).values()]),
        }

    def _resume(self, state: Mapping[str, Array]) -> None:
        n, count = len(self.point), len(state["losses"])
        rows = state["steps"].shape == state["changes"].shape == (len(state["steps"]), n)
        fits = state["point"].shape == state["reference"].shape == (n,) and rows
        if not fits or state["gradients"].shape != (count, n):
            raise ValueError("the optimiser's state does not fit the parameters")
        self.point, self.reference = state["point"], state["reference"]
        self.steps, self.changes = list(state["steps"]), list(state["changes"])
        self.losses, self.gradients = state["losses"].tolist(), list(state["gradients"])
        self.place = _Place(*state["place"].tolist())

    def run(self, evaluate: Evaluate, observe: Callable[[], None], residuals: Residuals) -> None:
        """Lower the loss until `observe` raises, or no progress is possible."""
        options, place = self.options, self.place
        if place.part < 0:
            place.part = first_part(residuals.counts, len(self.point))
        longest = options.block * (1 if residuals.is_whole else LONGER)
        seen = 0

        def at(point: Array) -> tuple[float, Array]:
            """Loss and gradient, from what was evaluated before the restart or anew."""
            nonlocal seen
            seen += 1
            if seen > len(self.losses):
                loss, gradient = evaluate(point, int(place.part))
                self.losses.append(loss)
                self.gradients.append(gradient)
                observe()
            return self.losses[seen - 1], self.gradients[seen - 1]

        while True:
            seen = 0
            loss, gradient = at(self.point)
            if place.count == 0:
                place.first = loss
            if place.count >= (longest if place.round else options.start):
                if not place.part and not loss < place.first * (1.0 - LEAST_PROGRESS):
                    return
                self._next_block(1.0)
                continue
            towards = self._direction(gradient, residuals)
            tried = self._search(at, loss, gradient, towards)
            place.count += len(self.losses) - 1
            if tried is not None:
                self._accept(gradient, *tried)
                continue
            self.losses, self.gradients = [loss], [gradient]
            shift = place.shift if self.steps or not place.round else STEEPER * place.shift
            if shift > STEEPER and not place.part:
                return
            self._next_block(shift)

    def _search(
        self,
        at: Callable[[Array], tuple[float, Array]],
        loss: float,
        gradient: Array,
        towards: Array,
    ) -> tuple[Array, float, Array] | None:
        """Return a better point along a line with its loss and gradient, where there is one."""
        found: dict[float, tuple[Array, float, Array]] = {}

        def along(length: float) -> tuple[float, float]:
            point = self.point + length * towards
            value, slope = at(point)
            found[length] = point, value, slope
            return value, float(slope @ towards)

        slope = float(gradient @ towards)
        length = line_search(along, loss, slope) if slope < 0.0 else None
        return None if length is None else found[length]

    def _accept(self, before: Array, point: Array, loss: float, gradient: Array) -> None:
        """Go to a point and remember the step."""
        step, change = point - self.point, gradient - before
        if curves_up(step, change):
            self.steps.append(step)
            self.changes.append(change)
            del self.steps[: -int(self.options.memory)], self.changes[: -int(self.options.memory)]
        self.point, self.losses, self.gradients = point, [loss], [gradient]

    def _next_block(self, shift: float) -> None:
        """Begin a block where the last one ended, perhaps with more images."""
        place = self.place
        self.reference, self._factor = self.point.copy(), None
        self.steps, self.changes = [], []
        place.round += 1
        place.count, place.shift = 0.0, shift
        place.blocks += 1
        if place.part and place.blocks >= BLOCKS:
            place.part, place.blocks, place.shift = place.part - 1, 0.0, 1.0
            self.losses, self.gradients = [], []

    def _direction(self, gradient: Array, residuals: Residuals) -> Array:
        """Return the direction of descent."""
        if not self.place.round:
            if self.steps:
                step, change = self.steps[-1], self.changes[-1]
                length = float(step @ change) / float(change @ change)
            else:
                length = 1.0 / max(float(np.linalg.norm(gradient)), 1e-300)
            return direction(gradient, self.steps, self.changes, lambda q: length * q)

        if self._factor is None:
            self._factor = self._factorised(residuals)
        factor, scale = self._factor, 1.0
        if self.steps:
            inner = factor.halfway(self.changes[-1])
            scale = float(self.steps[-1] @ self.changes[-1]) / float(inner @ inner)
        return direction(
            gradient,
            self.steps,
            self.changes,
            lambda q: scale * factor.solve(q),
        )

    def _factorised(self, residuals: Residuals) -> Factor:
        """Return the factors of A + shift."""
        place, n = self.place, len(self.point)
        part = int(place.part)
        least = FRACTIONS[0]
        fraction = sampled(residuals.counts[part], n) if residuals.is_whole else least
        matrices = residuals.matrix(self.reference, part, fraction, int(place.round))
        if not all(np.isfinite(matrix).all() for matrix in matrices):
            raise ModelError(
                "derivatives of the model are not finite: the parameters ran away; start again "
                "with another seed, or take L-BFGS-B as the optimiser"
            )
        mean = sum(float(matrix.diagonal().sum()) for matrix in matrices) / n or 1.0
        shift = self.options.shift * place.shift * mean * (1.0 if residuals.is_whole else STIFFER)
        return Factor(residuals.blocks, [_cholesky(matrix, shift) for matrix in matrices])


@dataclass(frozen=True)
class Factor:
    """The lower triangular L with L Lᵀ = A + shift, block by block."""

    blocks: Sequence[slice]
    factors: Sequence[Array]

    def halfway(self, vector: Array) -> Array:
        """Return L⁻¹ v."""
        return self._solved(vector, trans=0)

    def solve(self, vector: Array) -> Array:
        """Return (L Lᵀ)⁻¹ v."""
        return self._solved(self._solved(vector, trans=0), trans=1)

    def _solved(self, vector: Array, *, trans: int) -> Array:
        from scipy.linalg.blas import dtrsv

        found = np.empty_like(vector)
        for block, factor in zip(self.blocks, self.factors, strict=True):
            found[block] = dtrsv(factor, vector[block], lower=1, trans=trans)
        return found


def _cholesky(matrix: Array, shift: float) -> Array:
    """Return the factor of a matrix with a shift; with a larger one where it is still singular."""
    from scipy.linalg import LinAlgError, cholesky

    diagonal = matrix.diagonal().copy()
    while True:
        np.fill_diagonal(matrix, diagonal + shift)
        try:
            return np.asfortranarray(cholesky(matrix, lower=True, check_finite=False))
        except LinAlgError:
            shift *= STEEPER


def first_part(counts: tuple[int, ...], n_parameters: int) -> int:
    """Return the smallest part of the images that has enough residuals to start with."""
    enough = [part for part, count in enumerate(counts) if count >= ENOUGH * n_parameters]
    return max(enough, default=0)


def sampled(count: int, n_parameters: int) -> float:
    """Return the fraction of the forces that goes into A."""
    least, most = FRACTIONS
    return min(max(ROWS * n_parameters / count, least), most)
