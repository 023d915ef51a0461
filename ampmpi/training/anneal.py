"""Simulated annealing of a model's parameters, from which a training starts.

It is that of Amp (after R. J. Wagner and M. T. Perry's simanneal): from the parameters p a move
leads to p_i (1 + 0.0005 u_i) with random u_i from -1 to 1. A move to a smaller loss is taken,
another one with the probability exp(-ΔL / T), where the temperature T falls from Tmax to Tmin
as Tmax (Tmin / Tmax)^(step / steps). The best parameters of all are kept.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ampmpi.errors import InputError, ModelError, Unfinished
from ampmpi.members import Member
from ampmpi.model import LossFunction
from ampmpi.model.layers import Array
from ampmpi.model.loss import Coefficients, overfit_term
from ampmpi.parallel.comm import Communicator, world
from ampmpi.parallel.failure import abort_on_error, agree, install_excepthook, on_all
from ampmpi.parallel.launch import stop
from ampmpi.parallel.threads import one_blas_thread
from ampmpi.training.fit import initial_loss
from ampmpi.training.log import TrainingLog
from ampmpi.training.session import Session
from ampmpi.training.settings import Settings
from ampmpi.training.shared_loss import SharedLoss

WIDTH = 0.0005
"""Largest relative change of a parameter in one move."""


@dataclass(frozen=True)
class Loss:
    """The loss of a calculator's model on some images, on rank 0; the others serve it."""

    shared: SharedLoss
    coefficients: Coefficients

    def __call__(self, vector: Array) -> float:
        """Return the loss at some parameters of the model."""
        inner = self.shared.inputs.from_model(vector)
        loss = self.coefficients.weighted(self.shared.evaluate(inner, gradient=False))
        return loss + overfit_term(self.shared.network, inner, self.coefficients.overfit)[0]


@contextmanager
def loss_of(
    calc: Any,
    images: Any,
    comm: Communicator,
    *,
    label: str,
    dblabel: str | None,
    lossfunction: LossFunction | None = None,
) -> Iterator[Loss]:
    """Give a calculator what its model lacks for the images, and yield its loss on them.

    Only rank 0 may ask for it, while the others serve it. Fingerprints that the databases of
    `dblabel` or `label` lack are computed into them. The loss function is the model's own
    unless one is given.
    """
    model = calc.model
    own, model.lossfunction = model.lossfunction, lossfunction or model.lossfunction
    try:
        session = Session(
            images,
            calc.descriptor,
            [Member("the model", model)],
            label=label,
            dblabel=dblabel,
            settings=Settings(overwrite=True, restart=True, logging=False),
            comm=comm,
        )
        prepared = session.prepare()
        calc.descriptor = session.descriptor
        shared = on_all(comm, lambda: initial_loss(comm, prepared, model))
        with one_blas_thread():
            yield Loss(shared, model.lossfunction.coefficients)
    finally:
        model.lossfunction = own


class Annealer:
    """Look for good parameters to start a training from, by simulated annealing.

    Making the object does it: afterwards the calculator's model has the best parameters that
    were found, and ``calc.train(images)`` starts from them. Ranks share the images. Ctrl-C ends
    it early, with the best so far. Steps are told of in LABEL-log.txt.

    The random numbers are numpy's and Python's global ones, as in Amp: the same seeds lead the
    same way. A class of one's own may have another `move`.

    Parameters
    ----------
    calc : Amp
        The calculator.
    images : list of ase.Atoms, or file names
        Images to train on.
    Tmax, Tmin : float
        First and last temperature, in units of the loss; 20 and 2.5 by default.
    steps : int
        Number of moves; 10000 by default.
    updates : int
        How often the log gets a line.
    train_forces : bool
        False leaves the forces out of the loss.

    Attributes
    ----------
    state : (n_parameters,) float array
        The best parameters.
    loss : float
        Their loss.

    Raises
    ------
    InputError
        A temperature is not above zero, or the number of steps not positive.
    ModelError
        The loss at the start is not finite.
    Unfinished
        A signal of the queueing system asked to stop; the model stays as it was.
    """

    Tmax: float = 20.0
    Tmin: float = 2.5
    steps: int = 10000
    updates: float = 50

    def __init__(
        self,
        calc: Any,
        images: Any,
        Tmax: float | None = None,
        Tmin: float | None = None,
        steps: int | None = None,
        updates: float | None = None,
        train_forces: bool = True,
    ) -> None:
        given = {"Tmax": Tmax, "Tmin": Tmin, "steps": steps, "updates": updates}
        for name, value in given.items():
            if value is not None:
                setattr(self, name, value)
        self.calc = calc
        comm = world()
        install_excepthook(comm)
        with ExitStack() as stack:
            stack.enter_context(stop.caught())
            stack.enter_context(abort_on_error(comm))
            on_all(comm, self._check)
            label = calc.label or "amp"
            quiet = not calc.logging or calc.label is None
            log = TrainingLog(stack, comm, label, quiet=quiet)
            own = calc.model.lossfunction
            chosen = own if train_forces else _without_forces(own)
            before = calc.model.fprange, calc.model.layers, calc.model.scalings
            try:
                loss = stack.enter_context(
                    loss_of(
                        calc, images, comm, label=label, dblabel=calc.dblabel, lossfunction=chosen
                    )
                )
                self.state, self.loss = self._on_rank_0(comm, loss, log)
            except BaseException:
                calc.model.fprange, calc.model.layers, calc.model.scalings = before
                raise
        calc.model.vector = self.state
        calc.reset()

    def move(self, state: Array) -> Array:
        """Return parameters near those given."""
        steps: Array = np.random.rand(len(state)) * 2.0 - 1.0  # noqa: NPY002  (the script's seed)
        return state * (1.0 + WIDTH * steps)

    def _check(self) -> None:
        for name in ("Tmax", "Tmin", "steps"):
            value = getattr(self, name)
            if not value > 0:
                raise InputError(f"Annealer: {name} is {value!r}; give a number above zero")

    def _on_rank_0(
        self, comm: Communicator, loss: Loss, log: Callable[[str], None]
    ) -> tuple[Array, float]:
        """Anneal on rank 0 while the others serve the loss; all get the result."""

        def run() -> tuple[tuple[Array, float], Any, Any]:
            try:
                found = self._anneal(loss, log)
            finally:
                loss.shared.finish()
            return found, np.random.get_state(), random.getstate()  # noqa: NPY002

        if comm.rank:
            loss.shared.serve()
        found, of_numpy, of_python = agree(comm, run)
        np.random.set_state(of_numpy)  # noqa: NPY002  (the ranks' generators stay alike)
        random.setstate(of_python)
        return found

    def _anneal(self, loss: Loss, log: Callable[[str], None]) -> tuple[Array, float]:
        start = time.monotonic()
        state: Array = self.calc.model.vector
        current = loss(state)
        if not math.isfinite(current):
            raise ModelError(
                f"the loss at the start of the annealing is {current}; start from other parameters"
            )
        best, smallest = state, current
        trials = accepted = improved = 0
        log(f"\nSimulated annealing: {self.steps} steps from T = {self.Tmax} to {self.Tmin}")
        log(_row("Step", "Temperature", "Loss (SSD)", "Accept", "Improve", "Elapsed", "Remaining"))
        log(_row(*("=" * width for width in WIDTHS)))
        log(_row(0, f"{self.Tmax:.2e}", f"{current:.4e}", "", "", _clock(0.0), ""))
        length = self.steps / self.updates if self.updates > 0 else math.inf
        for step in range(1, self.steps):
            temperature = self.Tmax * math.exp(math.log(self.Tmin / self.Tmax) * step / self.steps)
            trial = self.move(state.copy())
            value = loss(trial)
            if self._is_over(loss):
                log(f"Ended by Ctrl-C after {step} steps.")
                break
            trials += 1
            rise = value - current
            # a loss that is not finite is no place to go
            if rise <= 0.0 or math.exp(-rise / temperature) >= random.random():
                accepted += 1
                improved += rise < 0.0
                state, current = trial, value
                if value < smallest:
                    best, smallest = trial, value
            if step // length > (step - 1) // length:
                elapsed = time.monotonic() - start
                rates = (f"{100.0 * part / trials:.2f}%" for part in (accepted, improved))
                left = (self.steps - step) * elapsed / step
                log(
                    _row(
                        step, f"{temperature:.2e}", f"{current:.4e}", *rates, _clock(elapsed),
                        _clock(left),
                    )
                )  # fmt: skip
                trials = accepted = improved = 0
        log(f"The smallest loss was {smallest:.6e}.")
        return best, smallest

    def _is_over(self, loss: Loss) -> bool:
        """Whether Ctrl-C has ended the annealing; `Unfinished` where the queueing system has."""
        if not loss.shared.stop_requested:
            return False
        if stop.signal_name == "SIGINT":
            return True
        raise Unfinished("asked to stop while annealing; start it again from the beginning")


def _without_forces(own: LossFunction) -> LossFunction:
    return LossFunction(
        energy_coefficient=own.energy_coefficient,
        force_coefficient=None,
        overfit=own.overfit,
        weight_duplicates=own.weight_duplicates,
    )


WIDTHS = (7, 11, 12, 8, 8, 10, 10)


def _row(*cells: Any) -> str:
    return " ".join(f"{cell!s:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def _clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
