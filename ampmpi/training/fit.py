"""One fit: the optimiser's steps, when they end, and what survives an interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import ampmpi
from ampmpi.errors import ModelError, Unfinished
from ampmpi.files.whole import sweep
from ampmpi.model import NeuralNetwork, amp_file
from ampmpi.model import checkpoint as checkpoints
from ampmpi.model.by_hand import numerical_gradient
from ampmpi.model.gauss_newton import Residuals
from ampmpi.model.inputs import Inputs, make_inputs
from ampmpi.model.jacobian import Sampling
from ampmpi.model.layers import Array
from ampmpi.model.loss import LossTerms, overfit_term
from ampmpi.model.optimise import StopOptimisation, make_optimiser
from ampmpi.model.scaling import is_constant
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree, on_all
from ampmpi.parallel.launch import stop
from ampmpi.parallel.log import Log
from ampmpi.parallel.threads import one_blas_thread
from ampmpi.training.curve import Curve, Step, converged, log_line, opening
from ampmpi.training.deadline import UNLIMITED, Deadline
from ampmpi.training.earlier import (
    CONVERGED,
    EARLY,
    FPRANGE,
    MAXITER,
    STALLED,
    TIME,
    FitResult,
    Start,
    checkpoint_of,
    digest_of,
    ends_of,
    step_of,
)
from ampmpi.training.progress import FitProgress
from ampmpi.training.settings import Schedule
from ampmpi.training.shared_loss import SharedLoss
from ampmpi.training.shares import Prepared, scaled

# Seconds after which a checkpoint is written even if few steps were made.
CHECKPOINT_SECONDS = 300.0


def fit(
    comm: Communicator,
    prepared: Prepared,
    model: NeuralNetwork,
    label: str,
    schedule: Schedule,
    log: Callable[[str], None],
    start: Start,
    drawn: Mapping[str, float] | None = None,
    progress: FitProgress | None = None,
    deadline: Deadline = UNLIMITED,
) -> FitResult:
    """Fit a model on a group of ranks, or go on with a fit that was interrupted.

    The model gets the parameters found, on every rank; it stays as it was where the fit does
    not end. `drawn`, for bootstrapping, is how often each training image counts. `progress`
    shows the steps of rank 0, by whose clock `deadline` ends the fit.
    """
    with _unchanged_on_error(model):
        start.apply(model)
        loss = on_all(comm, lambda: initial_loss(comm, prepared, model, drawn))

        shown = progress or FitProgress(Log(quiet=True), "")

        def run() -> FitResult:
            try:
                return Fit(
                    loss, model, prepared, label, schedule, start, log, shown, drawn, deadline
                ).run()
            finally:
                loss.finish()

        with one_blas_thread():
            if comm.rank:
                loss.serve()
            result = agree(comm, run)
        model.vector = result.vector
        if result.terms is not None:
            model.lossfunction.remember(result.terms)
    return result


@contextmanager
def _unchanged_on_error(model: NeuralNetwork) -> Iterator[None]:
    before = model.fprange, model.layers, model.scalings
    try:
        yield
    except BaseException:
        model.fprange, model.layers, model.scalings = before
        raise


def initial_loss(
    comm: Communicator,
    prepared: Prepared,
    model: NeuralNetwork,
    drawn: Mapping[str, float] | None = None,
) -> SharedLoss:
    """Give a model what it lacks, and return its loss on the images of a group."""
    dataset = prepared.dataset
    chosen = ~dataset.validation & dataset.has_energy
    columns = [dataset.elements.index(element) for element in sorted(prepared.fprange)]
    is_new = model.layers is None
    model.initialise(
        prepared.fprange, dataset.energies[chosen], dataset.composition[chosen][:, columns]
    )
    inputs = _inputs(prepared, model, is_new=is_new)
    training = scaled(prepared.training, inputs, drawn)
    validation = scaled(prepared.validation, inputs)
    coefficients = model.lossfunction.coefficients
    return SharedLoss(comm, model.network, coefficients, training, validation, inputs)


def _inputs(prepared: Prepared, model: NeuralNetwork, *, is_new: bool) -> Inputs:
    """Choose how features are scaled; random weights are those of what the training takes."""
    assert model.fprange is not None and model.layers is not None
    if is_new and model.constant_features == "drop":
        for element, fprange in prepared.fprange.items():
            model.layers[element][0][:-1][is_constant(fprange)] = 0.0
    inputs = make_inputs(
        model.network,
        model.vector,
        model.fprange,
        prepared.fprange,
        prepared.spreads,
        scale=model.scale_features,
        constant=model.constant_features,
    )
    if is_new:
        model.vector = inputs.to_model(model.vector)
    return inputs


class Fit:
    """A fit on rank 0 of its group, while the other ranks serve its loss."""

    def __init__(
        self,
        loss: SharedLoss,
        model: NeuralNetwork,
        prepared: Prepared,
        label: str,
        schedule: Schedule,
        start: Start,
        log: Callable[[str], None],
        progress: FitProgress,
        drawn: Mapping[str, float] | None = None,
        deadline: Deadline = UNLIMITED,
    ) -> None:
        self.loss, self.model, self.descriptor = loss, model, prepared.descriptor
        self.inputs = loss.inputs
        self.limits, self.regressor = model.lossfunction, model.regressor
        dataset = prepared.dataset
        self.n_images, self.n_validation = dataset.n_training, dataset.n_validation
        self.n_validation_energies = dataset.n_validation_energies
        self.n_validation_forces = dataset.n_validation_forces
        self.n_validation_stresses = dataset.n_validation_stresses
        self.parts = dataset.parts(drawn)
        self.about = dataset.about
        self.label, self.path = label, checkpoint_of(label)
        self.schedule, self.start, self.log = schedule, start, log
        self.progress, self.deadline = progress, deadline
        self.latest_terms: LossTerms | None = None
        self.began = self.saved = self.looked = time.monotonic()
        self.longest = 0.0  # seconds between two looks

    def run(self) -> FitResult:
        """Make steps until there is a reason to end."""
        sweep(self.path)
        known = checkpoints.load(self.path) if self.start.goes_on else None
        if known is None:
            self._begin(self.inputs.from_model(self.model.vector))
        else:
            self._resume(known)
        stress = self.loss.coefficients.stress is not None
        self.curve = Curve(f"{self.label}-curve.txt", self.steps, stress=stress)
        if self.limits.log_losses:
            self.log(opening(self.limits, self.n_images, bool(self.n_validation)))
        outcome = self._optimised()
        end, vector = self.best, self.best_vector
        if outcome == CONVERGED or math.isinf(self.best_value):
            end, vector = self.current, self.latest
        terms = self.latest_terms
        if terms is None or vector is not self.latest or end.part:
            terms = self._terms_at(vector)
        if end.part:
            end = self._step(end.step, terms, end.seconds)
        end = self._validated(end, vector)  # the best one on a part of the images was not yet
        if terms.dloss_dparameters is not None:
            gradient = self.inputs.gradient_to_model(terms.dloss_dparameters)
            terms = terms._replace(dloss_dparameters=gradient)
        result = FitResult(outcome, self.inputs.to_model(vector), end, self.steps, terms)
        self._save(result)
        if outcome == TIME:
            self.log(f"The time is up after step {self.steps}: {self.deadline.reason}.")
        if self.limits.log_losses:
            self.log(f"...optimization {'un' if outcome == STALLED else ''}successful.")
        return result

    def _optimised(self) -> str:
        """Make steps until there is a reason to end, and return it."""
        if math.isfinite(self.best_value):
            if self.steps >= self.limits.maxiter:
                return MAXITER
            if self.deadline.finishes and self.deadline.over():
                return TIME
        self.progress.begin(self.steps, self.limits.maxiter, self.deadline.left)
        try:
            counts = tuple(part.n_residuals for part in self.parts)
            residuals = Residuals(counts, self._gauss_newton, self.loss.network.curvature_blocks)
            self.optimiser.run(self._evaluate, self._observe, residuals)
        except StopOptimisation as reason:
            return str(reason)
        finally:
            self.progress.end()
        return STALLED

    def _begin(self, start: Array) -> None:
        self.optimiser = make_optimiser(self.regressor, start, self.schedule.block)
        self.steps, self.seconds = 0, 0.0
        self.results: list[str] = []
        self.best_value = math.inf
        self.best_vector = self.latest = start.copy()
        self.best = self.current = Step(0, math.nan, math.nan, math.nan)
        self._save_amp(f"{self.label}-initial-parameters.amp", start)

    def _resume(self, known: checkpoints.Checkpoint) -> None:
        arrays, n = known.arrays, self.loss.network.n_parameters
        try:
            self.best_vector, self.latest = arrays["best_vector"], arrays["latest"]
            if self.best_vector.shape != (n,) or self.latest.shape != (n,):
                raise ValueError("it holds another number of parameters")
            self.optimiser = make_optimiser(
                self.regressor,
                self.best_vector,
                self.schedule.block,
                known.arrays_of(checkpoints.OPTIMISER),
            )
            self.best_value = float(arrays["best_value"])
            self.best = self.current = step_of(arrays["best"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelError(
                f"checkpoint {self.path} does not fit the model ({error}); remove it, or give "
                "--restart (restart=True in a script), to start over"
            ) from error
        self.steps, self.seconds = known.state["steps"], float(known.state["seconds"])
        self.results = [str(digest) for digest in known.state["results"]]
        self.log(f"Going on from {self.path} after step {self.steps}.")

    def _evaluate(self, vector: Array, part: int = 0) -> tuple[float, Array]:
        """Loss and gradient at a point, and its errors in `current`.

        Those of a part of the images stand for the whole set.
        """
        terms = self._terms_at(vector, part)
        value = terms.loss
        self.steps += 1
        if not math.isfinite(value):
            raise ModelError(
                f"the loss is {value} at step {self.steps}: energies, forces or fingerprints are "
                "far out, or the parameters ran away; look for wrong images, or start again with "
                "another seed or tanh as the activation"
            )
        seconds = self.seconds + time.monotonic() - self.began
        self.current = self._step(self.steps, terms, seconds, part)
        self.latest, self.latest_terms = vector, terms
        gradient = terms.dloss_dparameters
        return value, np.zeros(0) if gradient is None else gradient

    def _observe(self) -> None:
        """Record the step just evaluated, and end the fit when it is time."""
        step, limits = self.current, self.limits
        is_whole = step.part == 0.0
        is_converged = is_whole and limits.raise_ConvergenceOccurred and converged(step, limits)
        is_late = self._is_late()
        is_last = (
            is_converged or step.step >= limits.maxiter or (is_late and self.deadline.finishes)
        )
        if is_last or (is_whole and step.step % self.schedule.validate_every == 0):
            step = self.current = self._validated(step)
        value = step.val_loss if self.n_validation and is_whole else step.loss
        # whatever was found on a part of the images, the first step on more of them is better
        if value < self.best_value or (step.part < self.best.part and not math.isnan(value)):
            self.best_value, self.best, self.best_vector = value, step, self.latest.copy()
        self.curve.append(step)
        if limits.log_losses:
            self.log(log_line(step, limits))
        self.progress.show(step)
        if self.model.observer is not None:
            self.model.vector = self.inputs.to_model(self.latest)
            self.model.observer(self.model, self.model.vector, self.current.loss)
        if is_last:
            limited = step.step >= limits.maxiter
            raise StopOptimisation(CONVERGED if is_converged else MAXITER if limited else TIME)
        patience, is_validated = self.schedule.patience, not math.isnan(step.val_loss)
        if is_validated and patience is not None and step.step - self.best.step >= patience:
            raise StopOptimisation(EARLY)
        due = step.step % self.schedule.checkpoint_every == 0
        stops = self.loss.stop_requested or is_late
        if due or stops or time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            self._save()
        if stops:
            why = f" ({stop.signal_name})" if stop.signal_name else ""
            if is_late and not why:
                why = f" ({self.deadline.reason})"
            raise Unfinished(
                f"stopped after step {step.step} of {limits.maxiter}{why}, saved in {self.path}; "
                "start it again to go on"
            )

    def _is_late(self) -> bool:
        """Whether another step would end after the deadline."""
        now = time.monotonic()
        self.longest, self.looked = max(self.longest, now - self.looked), now
        return self.deadline.over(self.longest)

    def _validated(self, step: Step, vector: Array | None = None) -> Step:
        """Return a step, by default the last one, with its errors on the validation set."""
        if not self.n_validation or not math.isnan(step.val_loss):
            return step
        totals = self.loss.evaluate(
            self.latest if vector is None else vector, "validation", gradient=False
        )
        terms = LossTerms(self.loss.coefficients.weighted(totals), *totals)
        energy, energy_max, force, force_max = self._errors(
            terms, self.n_validation_energies, self.n_validation_forces
        )
        stress, stress_max = self._stress_errors(terms, self.n_validation_stresses)
        return replace(
            step,
            val_loss=self.loss.coefficients.weighted(totals),
            val_energy_rmse=energy,
            val_energy_maxresid=energy_max,
            val_force_rmse=force,
            val_force_maxresid=force_max,
            val_stress_rmse=stress,
            val_stress_maxresid=stress_max,
        )

    def _step(self, number: int, terms: LossTerms, seconds: float, part: int = 0) -> Step:
        """Return a step with its errors on the training images, or a part of them.

        Sums over a part are there as `_terms_at` gives them.
        """
        known, scale = self.parts[part], self._scale_of(part)
        stress, stress_max = self._stress_errors(terms, scale * known.n_stresses)
        return Step(
            number,
            terms.loss,
            *self._errors(terms, scale * known.n_energies, scale * known.n_forces),
            part=float(part),
            seconds=seconds,
            stress_rmse=stress,
            stress_maxresid=stress_max,
        )

    def _errors(
        self, terms: LossTerms, n_energies: float, n_forces: float
    ) -> tuple[float, float, float, float]:
        """Return energy rmse and largest residual, then those of the forces.

        They are means over the `n_energies` and `n_forces` images that have such to train on.
        """
        energy, energy_max = math.nan, math.nan
        if n_energies:
            energy = math.sqrt(terms.energy_squares / n_energies)
            energy_max = terms.energy_maxresid
        if self.loss.coefficients.force is None or not n_forces:
            return energy, energy_max, math.nan, math.nan
        force = math.sqrt(terms.force_squares / n_forces)
        return energy, energy_max, force, terms.force_maxresid

    def _stress_errors(self, terms: LossTerms, n_stresses: float) -> tuple[float, float]:
        """Return rmse and largest residual of the stress, over the `n_stresses` that there are."""
        if self.loss.coefficients.stress is None or not n_stresses:
            return math.nan, math.nan
        return math.sqrt(terms.stress_squares / n_stresses), terms.stress_maxresid

    def _gauss_newton(self, vector: Array, part: int, fraction: float, round: int) -> list[Array]:
        """Gauss-Newton matrix at a point: of the loss as `_terms_at` gives it."""
        sampling = Sampling(fraction, self.model.randomseed or 0, round)
        network, overfit = self.loss.network, self.loss.coefficients.overfit
        matrices = self.loss.gauss_newton(vector, sampling, part)
        for block, matrix in zip(network.curvature_blocks, matrices, strict=True):
            matrix *= self._scale_of(part)
            penalised = network.penalty_mask()[block]
            matrix[np.diag_indices(len(matrix))] += 2.0 * overfit * penalised
        return matrices

    def _scale_of(self, part: int) -> float:
        """Return what sums over a part of the images are multiplied with to stand for all."""
        return self.parts[0].n_images / self.parts[part].n_images

    def _terms_at(self, vector: Array, part: int = 0) -> LossTerms:
        """Loss and gradient at a point, with their parts under Amp's names."""
        network, coefficients = self.loss.network, self.loss.coefficients
        with_gradient, d = self.regressor.lossprime, self.limits.d
        totals = self.loss.evaluate(vector, gradient=with_gradient and d is None, part=part)
        if part:
            scale = self._scale_of(part)
            totals = totals._replace(
                energy=scale * totals.energy,
                force=scale * totals.force,
                stress=scale * totals.stress,
                stress_squares=scale * totals.stress_squares,
                energy_squares=scale * totals.energy_squares,
                force_squares=scale * totals.force_squares,
                gradient=scale * totals.gradient,
            )
        penalty, slope = overfit_term(network, vector, coefficients.overfit)
        gradient = None
        if with_gradient:
            loss_at = partial(self._loss_at, part=part)
            gradient = slope + (
                totals.gradient if d is None else numerical_gradient(loss_at, vector, d)
            )
        return LossTerms(
            coefficients.weighted(totals) + penalty,
            totals.energy,
            totals.force,
            totals.energy_maxresid,
            totals.force_maxresid,
            gradient,
            totals.stress,
            totals.stress_squares,
            totals.stress_maxresid,
            totals.energy_squares,
            totals.force_squares,
        )

    def _loss_at(self, vector: Array, part: int) -> float:
        totals = self.loss.evaluate(vector, gradient=False, part=part)
        return self._scale_of(part) * self.loss.coefficients.weighted(totals)

    def _save_amp(self, name: str, vector: Array) -> None:
        copy = NeuralNetwork.from_parameters(self.model.parameters)
        copy.vector = self.inputs.to_model(vector)
        amp_file.write(name, self.descriptor.parameters, copy.parameters)

    def _ends(self, result: FitResult | None) -> dict[str, Any]:
        """Return what has decided on the end; a fit that its batch job has ended can go on."""
        outcome = None if result is None else result.outcome
        schedule = replace(self.schedule, max_seconds=self.deadline.seconds)
        return ends_of(self.limits, schedule, outcome)

    def _save(self, result: FitResult | None = None) -> None:
        """Write the checkpoint, and Amp's beside it while the fit goes on.

        The end of a fit may be another step than the best one, from which a fit with other
        limits goes on. What is kept comes first, as a restart begins after the checkpoint;
        Amp's last, as it stands in for a checkpoint that is not there.
        """
        if result is None and self.schedule.keep_checkpoints:
            folder = Path(f"{self.label}-checkpoints")
            folder.mkdir(exist_ok=True)
            self._save_amp(str(folder / f"{self.steps}.amp"), self.latest)
        arrays = {
            "best_value": np.array(self.best_value),
            "best_vector": self.best_vector,
            "best": np.array(astuple(self.best)),
            "latest": self.latest,
        }
        for element, fprange in (self.model.fprange or {}).items():
            arrays[FPRANGE + element] = fprange
        for name, array in self.optimiser.state().items():
            arrays[checkpoints.OPTIMISER + name] = array
        if result is not None:
            arrays |= {"end": np.array(astuple(result.best)), "end_vector": result.vector}
            self.results.append(digest_of(result.vector.tobytes()))
        state = {
            "steps": self.steps,
            "seconds": self.seconds + time.monotonic() - self.began,
            "outcome": None if result is None else result.outcome,
            "ends": self._ends(result),
            "results": self.results,
            "about": {
                "version": ampmpi.__version__,
                "date": time.strftime("%Y-%m-%d %H:%M"),
                "images": self.about,
            },
        }
        checkpoints.save(self.path, checkpoints.Checkpoint(self.start.settings, state, arrays))
        self.saved = time.monotonic()
        if result is None:
            self._save_amp(f"{self.label}-checkpoint.amp", self.latest)
