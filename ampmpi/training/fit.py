"""One fit: the optimiser's steps, when they end, and what survives an interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ampmpi.errors import ModelError, Unfinished
from ampmpi.model import checkpoint as checkpoints
from ampmpi.model.files import sweep
from ampmpi.model.layers import Array
from ampmpi.model.loss import overfit_term
from ampmpi.model.optimize import BLOCK, Journal, StopOptimisation, optimise
from ampmpi.model.settings import LossFunction, Regressor
from ampmpi.training.curve import Curve, Step, closing, converged, header, log_line, opening
from ampmpi.training.shared_loss import SharedLoss, Totals

CONVERGED, MAXITER, EARLY, STALLED = "converged", "maxiter", "early stopping", "stalled"

# Seconds after which a checkpoint is written even if few steps were made.
CHECKPOINT_SECONDS = 300.0


@dataclass(frozen=True)
class Schedule:
    """When a fit looks up from its steps.

    Attributes
    ----------
    validate_every : int
        Steps between evaluations on the validation set; the last step is validated, too.
    patience : int or None
        Steps without a better validation loss after which the fit ends.
    checkpoint_every : int
        Steps between checkpoints.
    keep_checkpoints : bool
        Keep a .amp file of each.
    block : int
        Iterations between fresh starts of the optimiser.
    """

    validate_every: int = 10
    patience: int | None = None
    checkpoint_every: int = 100
    keep_checkpoints: bool = False
    block: int = BLOCK


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
    was_finished : bool
        Whether the checkpoint told of this end, so that nothing was done.
    """

    outcome: str
    vector: Array
    best: Step
    steps: int
    was_finished: bool = False

    @property
    def successful(self) -> bool:
        """Whether the fit ended as it was told to, as Amp counts it."""
        return self.outcome != STALLED


def ends_of(limits: LossFunction, schedule: Schedule) -> dict[str, Any]:
    """Return what decides when a fit ends; a restart with other values goes on from the end."""
    return {
        "convergence": dict(limits.convergence) if limits.raise_ConvergenceOccurred else None,
        "maxiter": limits.maxiter,
        "patience": schedule.patience,
    }


class Fit:
    """A fit on rank 0 of its group, while the other ranks serve its loss.

    Parameters
    ----------
    loss : SharedLoss
        The loss over all ranks.
    lossfunction, regressor
        Loss, criteria and optimiser.
    n_images, n_validation : int
        Images of both sets, over all ranks.
    schedule : Schedule
        When to validate and to save.
    label : str
        Prefix of the files.
    settings : dict
        What determines the fit; kept in the checkpoint.
    save_amp : callable
        Saves a vector as a .amp file of the given name.
    log : callable
        Takes lines for the log.
    """

    def __init__(
        self,
        loss: SharedLoss,
        lossfunction: LossFunction,
        regressor: Regressor,
        n_images: int,
        n_validation: int,
        schedule: Schedule,
        label: str,
        settings: dict[str, Any],
        save_amp: Callable[[str, Array], None],
        log: Callable[[str], None],
    ) -> None:
        self.loss = loss
        self.lossfunction = lossfunction
        self.regressor = regressor
        self.n_images = n_images
        self.n_validation = n_validation
        self.schedule = schedule
        self.label = label
        self.settings = settings
        self.save_amp = save_amp
        self.log = log
        self.path = f"{label}-checkpoint.npz"

    def run(self, start: Array, known: checkpoints.Checkpoint | None) -> FitResult:
        """Fit from `start`, or go on from a checkpoint.

        Raises
        ------
        Unfinished
            A signal asked to stop; the checkpoint is saved.
        ModelError
            The loss is not a number.
        """
        for name in ("checkpoint.npz", "checkpoint.amp", "curve.txt", "initial-parameters.amp"):
            sweep(f"{self.label}-{name}")
        self.ends = ends_of(self.lossfunction, self.schedule)
        if known is not None and known.state["outcome"] and known.state["ends"] == self.ends:
            return self._finished(known)
        self._restore(start, known)
        self.curve = Curve(f"{self.label}-curve.txt", self.steps)
        if self.lossfunction.log_losses:
            self.log(opening(self.lossfunction, self.n_images))
            self.log(header(self.lossfunction, bool(self.n_validation)))
        outcome = self._optimised()
        end, vector = self.best, self.best_vector
        if outcome == CONVERGED or math.isinf(self.best_value):
            end, vector = self._validated(self.current), self.latest
        self._save(outcome, end, vector)
        result = FitResult(outcome, vector, end, self.steps)
        if self.lossfunction.log_losses:
            self.log(closing(result.successful))
        return result

    def _optimised(self) -> str:
        """Make steps until there is a reason to end, and return it."""
        if self.steps >= self.lossfunction.maxiter and math.isfinite(self.best_value):
            return MAXITER
        try:
            optimise(
                self._evaluate, self._observe, self.journal, self.regressor, self.schedule.block
            )
        except StopOptimisation as stop:
            return str(stop)
        return STALLED

    def _restore(self, start: Array, known: checkpoints.Checkpoint | None) -> None:
        self.began = self.saved = time.monotonic()
        if known is None:
            self.journal = Journal(start.copy())
            self.steps, self.seconds = 0, 0.0
            self.best_value, self.best_vector = math.inf, start.copy()
            self.best = self.current = Step(0, math.nan, math.nan, math.nan)
            self.latest = self.best_vector
            return
        arrays = dict(known.arrays)
        self.journal = Journal.from_arrays(arrays)
        self.steps, self.seconds = int(known.state["steps"]), float(known.state["seconds"])
        self.best_value = float(arrays["best_value"])
        self.best_vector = arrays["best_vector"]
        self.best = self.current = Step(int(arrays["best"][0]), *arrays["best"][1:].tolist())
        self.latest = self.journal.points[-1] if self.journal.points else self.best_vector
        self.log(f"Going on from {self.path} after step {self.steps}.")

    def _finished(self, known: checkpoints.Checkpoint) -> FitResult:
        end = known.arrays["end"]
        self.log(f"{self.path} says that this fit is finished; nothing to do.")
        return FitResult(
            str(known.state["outcome"]),
            known.arrays["end_vector"],
            Step(int(end[0]), *end[1:].tolist()),
            int(known.state["steps"]),
            was_finished=True,
        )

    def _evaluate(self, vector: Array) -> tuple[float, Array]:
        """Loss and gradient at a point, and its errors in `current`."""
        numerical = self.lossfunction.d if self.regressor.lossprime else None
        totals = self.loss.evaluate(vector, gradient=self.regressor.lossprime and numerical is None)
        penalty, penalty_gradient = overfit_term(
            self.loss.network, vector, self.lossfunction.overfit
        )
        value = self._weighted(totals) + penalty
        self.steps += 1
        if not math.isfinite(value):
            raise ModelError(
                f"the loss is {value} at step {self.steps}: energies, forces or fingerprints are "
                "far out, or the parameters ran away; look for wrong images, or start again with "
                "another seed or tanh as the activation"
            )
        self.current = Step(
            self.steps,
            value,
            *self._errors(totals, self.n_images),
            seconds=self.seconds + time.monotonic() - self.began,
        )
        self.stop_requested = totals.stop_requested
        if numerical is not None:
            return value, self._numerical_gradient(vector, numerical) + penalty_gradient
        if not self.regressor.lossprime:
            return value, np.zeros(0)
        return value, totals.gradient + penalty_gradient

    def _observe(self) -> None:
        """Record the step just evaluated, and end the fit when it is time."""
        self.latest = vector = self.journal.points[-1]
        step, limits = self.current, self.lossfunction
        is_converged = limits.raise_ConvergenceOccurred and converged(step, limits)
        is_last = is_converged or step.step >= limits.maxiter
        if is_last or step.step % self.schedule.validate_every == 0:
            step = self.current = self._validated(step)
        value = step.val_loss if self.n_validation else step.loss
        if value < self.best_value:
            self.best_value, self.best, self.best_vector = value, step, vector.copy()
        self.curve.append(step)
        if limits.log_losses:
            self.log(log_line(step, limits))
        if is_last:
            raise StopOptimisation(CONVERGED if is_converged else MAXITER)
        patience, is_validated = self.schedule.patience, not math.isnan(step.val_loss)
        if is_validated and patience is not None and step.step - self.best.step >= patience:
            raise StopOptimisation(EARLY)
        due = step.step % self.schedule.checkpoint_every == 0
        if due or self.stop_requested or time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            self._save(None)
        if self.stop_requested:
            raise Unfinished(
                f"asked to stop after step {step.step} of the training; start it again to go on"
            )

    def _validated(self, step: Step) -> Step:
        """Return a step, the last one evaluated, with its errors on the validation set."""
        if not self.n_validation or not math.isnan(step.val_loss):
            return step
        totals = self.loss.evaluate(self.latest, "validation", gradient=False)
        energy, energy_max, force, force_max = self._errors(totals, self.n_validation)
        return replace(
            step,
            val_loss=self._weighted(totals),
            val_energy_rmse=energy,
            val_energy_maxresid=energy_max,
            val_force_rmse=force,
            val_force_maxresid=force_max,
        )

    def _weighted(self, totals: Totals) -> float:
        coefficients = self.loss.coefficients
        return coefficients.energy * totals.energy + (coefficients.force or 0.0) * totals.force

    def _errors(self, totals: Totals, n_images: int) -> tuple[float, float, float, float]:
        """Energy rmse and largest residual, then those of the forces."""
        energy = math.sqrt(totals.energy / n_images)
        if self.loss.coefficients.force is None:
            return energy, totals.energy_maxresid, math.nan, math.nan
        return (
            energy,
            totals.energy_maxresid,
            math.sqrt(totals.force / n_images),
            totals.force_maxresid,
        )

    def _numerical_gradient(self, vector: Array, d: float) -> Array:
        gradient = np.empty_like(vector)
        for i in range(len(vector)):
            shift = np.zeros_like(vector)
            shift[i] = d
            ahead = self._weighted(self.loss.evaluate(vector + shift, gradient=False))
            behind = self._weighted(self.loss.evaluate(vector - shift, gradient=False))
            gradient[i] = (ahead - behind) / (2.0 * d)
        return gradient

    def _save(
        self, outcome: str | None, end: Step | None = None, end_vector: Array | None = None
    ) -> None:
        """Write the checkpoint, and Amp's beside it while the fit goes on.

        `end` and its parameters are the result of a fit that ended. It may be another
        step than the best one, from which a fit with other limits goes on.

        What is kept comes first, as a restart begins after the checkpoint; Amp's last, as
        it stands in for a checkpoint that is not there.
        """
        if outcome is None and self.schedule.keep_checkpoints:
            folder = Path(f"{self.label}-checkpoints")
            folder.mkdir(exist_ok=True)
            self.save_amp(str(folder / f"{self.steps}.amp"), self.latest)
        seconds = self.seconds + time.monotonic() - self.began
        arrays = {
            **self.journal.arrays(),
            "best_value": np.array(self.best_value),
            "best_vector": self.best_vector,
            "best": np.array(astuple(self.best), dtype=float),
        }
        if end is not None and end_vector is not None:
            arrays |= {"end": np.array(astuple(end), dtype=float), "end_vector": end_vector}
        state = {
            "steps": self.steps,
            "seconds": seconds,
            "outcome": outcome,
            "ends": self.ends,
        }
        checkpoints.save(self.path, checkpoints.Checkpoint(self.settings, state, arrays))
        self.saved = time.monotonic()
        if outcome is None:
            self.save_amp(f"{self.label}-checkpoint.amp", self.latest)
