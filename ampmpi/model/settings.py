"""How to train: Amp's `LossFunction` and `Regressor`, as settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ampmpi.errors import InputError
from ampmpi.model.loss import Coefficients
from ampmpi.parameters import Parameters

CRITERIA = ("energy_rmse", "energy_maxresid", "force_rmse", "force_maxresid")

# Options of scipy's optimisers. A training ends by its own criteria, not by scipy's.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "BFGS": {"gtol": 1e-15},
    "L-BFGS-B": {"ftol": 0.0, "gtol": 1e-15, "maxfun": 10**9, "maxls": 50, "maxcor": 50},
    "TNC": {"ftol": 0.0, "xtol": 0.0, "gtol": 1e-8},
    "Newton-CG": {"xtol": 1e-15},
    "Nelder-Mead": {"maxfev": 10**9},
}
ALIASES = {"L-BFGS": "L-BFGS-B", "NCG": "Newton-CG"}


class LossFunction:
    """The loss and when it is small enough, with Amp's keywords.

    Parameters
    ----------
    energy_coefficient : float
        Weight of the energies, whose errors count per atom.
    force_coefficient : float or None
        Weight of the forces; None turns force training off.
    convergence : dict, optional
        Criteria ``energy_rmse`` (0.001 eV per atom unless given), ``energy_maxresid``,
        ``force_rmse`` and ``force_maxresid`` (eV/Å); None leaves one out. Without a
        criterion for forces, force training is off.
    parallel : None
        Ranks come from ``mpirun``; anything else is refused.
    overfit : float
        Weight of the squared norm of the first layers' weights.
    raise_ConvergenceOccurred : bool
        False goes on after the criteria are met.
    log_losses : bool
        Write a line to the log for each step.
    d : float, optional
        Take the gradient by finite differences of this step; slow, for checks.
    weight_duplicates : bool
        Count an image as often as it was given.
    maxiter : int
        Steps after which the training ends.
    nft_ids : list of (hash, atom index), optional
        Images of which only the force on one atom is trained, and not the energy.

    Raises
    ------
    InputError
        A value is wrong; the message names it.
    """

    def __init__(
        self,
        energy_coefficient: float = 1.0,
        force_coefficient: float | None = 0.04,
        convergence: Mapping[str, float | None] | None = None,
        parallel: None = None,
        overfit: float = 0.0,
        raise_ConvergenceOccurred: bool = True,
        log_losses: bool = True,
        d: float | None = None,
        weight_duplicates: bool = False,
        maxiter: int = 100000,
        nft_ids: Sequence[tuple[str, int]] | None = None,
    ) -> None:
        if parallel is not None:
            raise InputError(
                "LossFunction: parallel is not taken here, the ranks come from mpirun; leave it out"
            )
        self.convergence: dict[str, float | None] = dict.fromkeys(CRITERIA)
        self.convergence["energy_rmse"] = 0.001
        if convergence is not None and not isinstance(convergence, Mapping):
            raise InputError(
                f"LossFunction: convergence is {convergence!r}; give a dict such as "
                "{'energy_rmse': 0.001}"
            )
        for name, value in (convergence or {}).items():
            if name not in CRITERIA:
                raise InputError(
                    f"LossFunction: unknown convergence criterion {name!r}; use "
                    f"{', '.join(CRITERIA)}"
                )
            self.convergence[name] = _positive(f"convergence[{name!r}]", value)
        self.energy_coefficient = _not_negative("energy_coefficient", energy_coefficient)
        self.force_coefficient = force_coefficient
        if force_coefficient is not None:
            self.force_coefficient = _not_negative("force_coefficient", force_coefficient)
        self.overfit = _not_negative("overfit", overfit)
        self.d = _positive("d", d)
        try:
            self.maxiter = int(maxiter)
        except (TypeError, ValueError, OverflowError):
            self.maxiter = 0
        if self.maxiter < 1:
            raise InputError(f"LossFunction: maxiter is {maxiter!r}; give a number of at least 1")
        self.raise_ConvergenceOccurred = bool(raise_ConvergenceOccurred)
        self.log_losses = bool(log_losses)
        self.weight_duplicates = bool(weight_duplicates)
        try:
            self.nft_ids = None if nft_ids is None else [(str(key), int(i)) for key, i in nft_ids]
        except (TypeError, ValueError):
            raise InputError(
                f"LossFunction: nft_ids is {nft_ids!r}; give a list of (hash, atom index)"
            ) from None

    def __repr__(self) -> str:
        terms = f"energy {self.energy_coefficient:g}"
        if self.trains_forces:
            terms += f", force {self.force_coefficient:g}"
        if self.overfit:
            terms += f", overfit {self.overfit:g}"
        criteria = [f"{k} {v:g}" for k, v in self.convergence.items() if v is not None]
        if not self.trains_forces:
            criteria = [each for each in criteria if not each.startswith("force")]
        end = " and ".join(criteria) or "no criterion"
        return f"<LossFunction: {terms}; ends at {end}, or after {self.maxiter} steps>"

    @property
    def trains_forces(self) -> bool:
        """Whether forces are trained: with a coefficient, and a criterion for them."""
        return bool(self.force_coefficient) and (
            self.convergence["force_rmse"] is not None
            or self.convergence["force_maxresid"] is not None
        )

    @property
    def coefficients(self) -> Coefficients:
        """Weights of the loss's terms."""
        force = self.force_coefficient if self.trains_forces else None
        return Coefficients(self.energy_coefficient, force, self.overfit)

    @property
    def parameters(self) -> Parameters:
        """The keywords, as Amp names them; the coefficient of forces is None without them."""
        return Parameters(
            convergence=dict(self.convergence),
            energy_coefficient=self.energy_coefficient,
            force_coefficient=self.coefficients.force,
            overfit=self.overfit,
            weight_duplicates=self.weight_duplicates,
            maxiter=self.maxiter,
            nft_ids=self.nft_ids,
            d=self.d,
        )


class Regressor:
    """The optimiser, with Amp's keywords.

    Parameters
    ----------
    optimizer : str or callable
        'BFGS' as in Amp, 'L-BFGS-B', 'TNC', 'Newton-CG' or 'Nelder-Mead' of scipy, or a
        function that is called as scipy's ``minimize`` is.
    optimizer_kwargs : dict, optional
        Further keywords of ``minimize``. As in Amp its ``options`` replace the defaults.
    lossprime : bool
        Whether the optimiser is given the gradient.

    Raises
    ------
    InputError
        The optimiser is unknown, or its keywords are no dict.
    """

    def __init__(
        self,
        optimizer: str | Callable[..., Any] = "BFGS",
        optimizer_kwargs: Mapping[str, Any] | None = None,
        lossprime: bool = True,
    ) -> None:
        self.lossprime = bool(lossprime)
        self.optimizer: str | Callable[..., Any] = optimizer
        self.optimizer_kwargs: dict[str, Any] = {}
        if isinstance(optimizer, str):
            name = ALIASES.get(optimizer, optimizer)
            if name not in OPTIMIZERS:
                raise InputError(
                    f"Regressor: unknown optimizer {optimizer!r}; use {', '.join(OPTIMIZERS)}"
                )
            self.optimizer = name
            self.optimizer_kwargs = {"method": name, "options": dict(OPTIMIZERS[name])}
            self.lossprime = self.lossprime and name != "Nelder-Mead"
        elif not callable(optimizer):
            raise InputError(
                f"Regressor: optimizer is {optimizer!r}; give a function or one of "
                f"{', '.join(OPTIMIZERS)}"
            )
        if optimizer_kwargs is not None and not isinstance(optimizer_kwargs, Mapping):
            raise InputError(
                f"Regressor: optimizer_kwargs is {optimizer_kwargs!r}; give a dict of keywords"
            )
        self.optimizer_kwargs.update(optimizer_kwargs or {})

    def __repr__(self) -> str:
        return f"<Regressor: {self.parameters['optimizer']}>"

    @property
    def parameters(self) -> Parameters:
        """Everything that determines the optimiser's way, plain."""
        name = self.optimizer
        return Parameters(
            optimizer=name if isinstance(name, str) else getattr(name, "__name__", repr(name)),
            optimizer_kwargs={k: self.optimizer_kwargs[k] for k in sorted(self.optimizer_kwargs)},
            lossprime=self.lossprime,
        )


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"LossFunction: {name} is {value!r}; it must be a number") from None
    if number != number:
        raise InputError(f"LossFunction: {name} is not a number")
    return number


def _not_negative(name: str, value: Any) -> float:
    number = _number(name, value)
    if number < 0:
        raise InputError(f"LossFunction: {name} is {value}; it must not be negative")
    return number


def _positive(name: str, value: Any) -> float | None:
    if value is None:
        return None
    number = _number(name, value)
    if number <= 0:
        raise InputError(f"LossFunction: {name} is {value}; it must be above 0")
    return number
