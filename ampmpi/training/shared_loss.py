"""The loss over all ranks of a group: rank 0 asks, every rank adds its images.

Rank 0 alone runs the optimiser and sends the point; one vector is added up over the ranks.
So no rank's rounding can lead it elsewhere than the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile

import numpy as np

from ampmpi.model.inputs import Inputs
from ampmpi.model.jacobian import Sampling, gauss_newton
from ampmpi.model.layers import Array
from ampmpi.model.loss import Coefficients, LossSums, ScaledBatch, loss_sums
from ampmpi.model.network import Network
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.launch import stop

# What is added up: energy and force sums, requests to stop, energy and force sums without given
# weights; then the two largest residuals for each rank, then the gradient. Where stresses are
# trained their two sums follow, and the largest residual for each rank.
HEAD = 5

NO_RANGES: dict[str, Array] = {}
"""Of a loss whose parameters are the model's."""


class SharedLoss:
    """Loss of a model on the training and validation images of a group of ranks.

    `training` and `validation` are this rank's images, and iterated over in each evaluation.
    `stop_requested` tells whether any rank was asked to stop before the last one. Parameters
    are those of the training, as `inputs` has them.
    """

    def __init__(
        self,
        comm: Communicator,
        network: Network,
        coefficients: Coefficients,
        training: Iterable[ScaledBatch],
        validation: Iterable[ScaledBatch],
        inputs: Inputs | None = None,
    ) -> None:
        self.comm = comm
        self.network = network
        self.coefficients = coefficients
        self.inputs = inputs or Inputs(network, NO_RANGES, NO_RANGES, {})
        self.sets = {"training": training, "validation": validation}
        self.stop_requested = False

    def evaluate(
        self, vector: Array, which: str = "training", gradient: bool = True, part: int = 0
    ) -> LossSums:
        """Return the sums over all ranks; on rank 0, while the others `serve`.

        `part` p stands for 1/4^p of the images; see `ampmpi.model.batch.part_of`.
        """
        self.comm.bcast(("_add", (vector, which, gradient, part)))
        return self._add(vector, which, gradient, part)

    def gauss_newton(self, vector: Array, sampling: Sampling, part: int = 0) -> list[Array]:
        """Return the Gauss-Newton matrix of the training images; on rank 0, as `evaluate`.

        It is as `ampmpi.model.jacobian.gauss_newton` gives it: blocks, whose lower triangle counts.
        """
        self.comm.bcast(("_add_matrices", (vector, sampling, part)))
        return self._add_matrices(vector, sampling, part)

    def finish(self) -> None:
        """Let the other ranks return from `serve`."""
        self.comm.bcast(None)

    def serve(self) -> None:
        """Take part in evaluations until rank 0 finishes."""
        while (order := self.comm.bcast(None)) is not None:
            name, arguments = order
            getattr(self, name)(*arguments)

    def _of(self, which: str, part: int) -> Iterator[ScaledBatch]:
        """Return the images of a part of a set, which come before all others."""
        return takewhile(lambda scaled: scaled.batch.part >= part, self.sets[which])

    def _add_matrices(self, vector: Array, sampling: Sampling, part: int) -> list[Array]:
        batches = self._of("training", part)
        matrices = gauss_newton(self.network, vector, batches, self.coefficients, sampling)
        if self.comm.size == 1:
            return matrices
        columns = [matrix[j:, j] for matrix in matrices for j in range(len(matrix))]
        start = 0
        total = self.comm.allreduce(np.concatenate(columns))
        for column in columns:
            column[:] = total[start : start + len(column)]
            start += len(column)
        return matrices

    def _add(self, vector: Array, which: str, gradient: bool, part: int) -> LossSums:
        rank, size = self.comm.rank, self.comm.size
        sums = loss_sums(
            self.network, vector, self._of(which, part), self.coefficients, gradient=gradient
        )
        start = HEAD + 2 * size
        end = start + (len(vector) if gradient else 0)
        stress = 0 if self.coefficients.stress is None else 2 + size
        message = np.zeros(end + stress)
        message[:3] = sums.energy, sums.force, float(stop.requested)
        message[3:HEAD] = sums.energy_squares, sums.force_squares
        message[HEAD + rank] = sums.energy_maxresid
        message[HEAD + size + rank] = sums.force_maxresid
        if gradient:
            message[start:end] = sums.gradient
        if stress:
            message[end : end + 2] = sums.stress, sums.stress_squares
            message[end + 2 + rank] = sums.stress_maxresid
        total = self.comm.allreduce(message)
        self.stop_requested = bool(total[2] > 0)
        return LossSums(
            energy=float(total[0]),
            force=float(total[1]),
            energy_maxresid=float(total[HEAD : HEAD + size].max()),
            force_maxresid=float(total[HEAD + size : HEAD + 2 * size].max()),
            gradient=total[start:end],
            stress=float(total[end]) if stress else 0.0,
            stress_squares=float(total[end + 1]) if stress else 0.0,
            stress_maxresid=float(total[end + 2 :].max()) if stress else 0.0,
            energy_squares=float(total[3]),
            force_squares=float(total[4]),
        )
