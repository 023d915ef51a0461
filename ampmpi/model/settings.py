"""How to train: Amp's `LossFunction` and `Regressor`, as settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ampmpi.errors import ConvergenceOccurred, InputError, ModelError
from ampmpi.model.by_hand import ImagesAtHand, loss_terms, meets
from ampmpi.model.layers import Array
from ampmpi.model.loss import Coefficients, LossTerms
from ampmpi.parameters import OpenParameters, Parameters

if TYPE_CHECKING:
    from ampmpi.model.neuralnetwork import NeuralNetwork

CRITERIA = ("energy_rmse", "energy_maxresid", "force_rmse", "force_maxresid")
STRESS_CRITERIA = ("stress_rmse", "stress_maxresid")

# What `parameters` of a loss function holds.
KEYWORDS = (
    "convergence", "energy_coefficient", "force_coefficient", "overfit", "weight_duplicates",
    "maxiter", "nft_ids", "stress_coefficient",
)  # fmt: skip

# Options of scipy's optimisers. A training ends by its own criteria, not by scipy's.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "gauss-newton": {},
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
        ``force_rmse`` and ``force_maxresid`` (eV/Å), ``stress_rmse`` and ``stress_maxresid``
        (eV/Å³); None leaves one out. Without a criterion for forces, force training is off.
    parallel : dict, optional
        Taken for Amp's sake; the ranks come from ``mpirun``.
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
    stress_coefficient : float, optional
        Weight of the stresses, whose errors count as virials per atom, in eV; without one, no
        stresses are trained.

    Attributes
    ----------
    parameters : OpenParameters
        The keywords, to be read and set by key or by attribute. What is set is checked when it
        is used.
    default_parameters : dict
        The criteria that hold unless others are given.
    loss, energy_loss, force_loss : float or None
        The loss, Σ ((E - E_ref) / N)² in eV² and ``Σ |F - F_ref|² / (3 N)`` in (eV/Å)², after a
        training or `get_loss`; None before.
    stress_loss, stress_squares : float or None
        ``Σ |V (σ - σ_ref) / N|² / 9`` in eV² and ``Σ |σ - σ_ref|² / 9`` in (eV/Å³)²; 0 where no
        stresses are trained.
    energy_maxresid, force_maxresid, stress_maxresid : float or None
        Largest energy error per atom, eV, and largest errors of a force component, eV/Å, and of
        a stress component, eV/Å³.
    dloss_dparameters : (n_parameters,) float array or None
        Gradient of the loss by the parameters, in the order of ``model.vector``.

    Raises
    ------
    InputError
        A value is wrong; the message names it.
    """

    loss: float | None = None
    energy_loss: float | None = None
    force_loss: float | None = None
    energy_maxresid: float | None = None
    force_maxresid: float | None = None
    stress_loss: float | None = None
    stress_squares: float | None = None
    stress_maxresid: float | None = None
    dloss_dparameters: Array | None = None

    default_parameters: ClassVar[dict[str, Any]] = {
        "convergence": {
            "energy_rmse": 0.001,
            "energy_maxresid": None,
            "force_rmse": None,
            "force_maxresid": None,
        }
    }

    def __init__(
        self,
        energy_coefficient: float = 1.0,
        force_coefficient: float | None = 0.04,
        convergence: Mapping[str, float | None] | None = None,
        parallel: Any = None,
        overfit: float = 0.0,
        raise_ConvergenceOccurred: bool = True,
        log_losses: bool = True,
        d: float | None = None,
        weight_duplicates: bool = False,
        maxiter: int = 100000,
        nft_ids: Sequence[tuple[str, int]] | None = None,
        stress_coefficient: float | None = None,
    ) -> None:
        if convergence is not None and not isinstance(convergence, Mapping):
            raise InputError(
                f"LossFunction: convergence is {convergence!r}; give a dict such as "
                "{'energy_rmse': 0.001}"
            )
        self.parameters = OpenParameters(
            {
                "importname": ".model.LossFunction",
                "convergence": {**self.default_parameters["convergence"], **(convergence or {})},
                "energy_coefficient": energy_coefficient,
                "force_coefficient": force_coefficient,
                "overfit": overfit,
                "weight_duplicates": weight_duplicates,
                "maxiter": maxiter,
                "nft_ids": nft_ids,
                "stress_coefficient": stress_coefficient,
            }
        )
        self.d = d
        self.parallel = parallel
        self._step = 0
        self._model: NeuralNetwork | None = None
        self._given: tuple[Any, Any, Any] = (None, None, None)
        self._at_hand: ImagesAtHand | None = None
        self.raise_ConvergenceOccurred = bool(raise_ConvergenceOccurred)
        self.log_losses = bool(log_losses)
        self.settings()

    def __repr__(self) -> str:
        terms = f"energy {self.energy_coefficient:g}"
        if self.trains_forces:
            terms += f", force {self.force_coefficient:g}"
        if self.trains_stress:
            terms += f", stress {self.stress_coefficient:g}"
        if self.overfit:
            terms += f", overfit {self.overfit:g}"
        criteria = [f"{k} {v:g}" for k, v in self.convergence.items() if v is not None]
        if not self.trains_forces:
            criteria = [each for each in criteria if not each.startswith("force")]
        end = " and ".join(criteria) or "no criterion"
        return f"<LossFunction: {terms}; ends at {end}, or after {self.maxiter} steps>"

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a keyword is set among the parameters."""
        if name in KEYWORDS:
            self.parameters[name] = value
        else:
            super().__setattr__(name, value)

    @property
    def convergence(self) -> OpenParameters:
        """The criteria; None leaves one out."""
        convergence = self.parameters["convergence"]
        if not isinstance(convergence, OpenParameters):
            raise InputError(
                f"LossFunction: convergence is {convergence!r}; give a dict such as "
                "{'energy_rmse': 0.001}"
            )
        for name, value in convergence.items():
            if name not in (*CRITERIA, *STRESS_CRITERIA):
                raise InputError(
                    f"LossFunction: unknown convergence criterion {name!r}; use "
                    f"{', '.join((*CRITERIA, *STRESS_CRITERIA))}"
                )
            _positive(f"convergence[{name!r}]", value)
        return convergence

    @property
    def energy_coefficient(self) -> float:
        """Weight of the energies."""
        return _not_negative("energy_coefficient", self.parameters["energy_coefficient"])

    @property
    def force_coefficient(self) -> float | None:
        """Weight of the forces."""
        value = self.parameters["force_coefficient"]
        return None if value is None else _not_negative("force_coefficient", value)

    @property
    def stress_coefficient(self) -> float | None:
        """Weight of the stresses."""
        value = self.parameters.get("stress_coefficient")
        return None if value is None else _not_negative("stress_coefficient", value)

    @property
    def overfit(self) -> float:
        """Weight of the squared norm of the first layers' weights."""
        return _not_negative("overfit", self.parameters["overfit"])

    @property
    def weight_duplicates(self) -> bool:
        """Whether an image counts as often as it was given."""
        return bool(self.parameters["weight_duplicates"])

    @property
    def maxiter(self) -> int:
        """Steps after which the training ends."""
        given = self.parameters["maxiter"]
        try:
            number = int(given)
        except (TypeError, ValueError, OverflowError):
            number = 0
        if number < 1:
            raise InputError(f"LossFunction: maxiter is {given!r}; give a number of at least 1")
        return number

    @property
    def nft_ids(self) -> list[tuple[str, int]] | None:
        """Images of which the force on one atom is trained."""
        given = self.parameters["nft_ids"]
        try:
            return None if given is None else [(str(key), int(i)) for key, i in given]
        except (TypeError, ValueError):
            raise InputError(
                f"LossFunction: nft_ids is {given!r}; give a list of (hash, atom index)"
            ) from None

    @property
    def trains_forces(self) -> bool:
        """Whether forces are trained: with a coefficient, and a criterion for them."""
        convergence = self.convergence
        return bool(self.force_coefficient) and (
            convergence.get("force_rmse") is not None
            or convergence.get("force_maxresid") is not None
        )

    @property
    def trains_stress(self) -> bool:
        """Whether stresses are trained: with a coefficient, whatever the criteria."""
        return bool(self.stress_coefficient)

    @property
    def coefficients(self) -> Coefficients:
        """Weights of the loss's terms."""
        force = self.force_coefficient if self.trains_forces else None
        stress = self.stress_coefficient if self.trains_stress else None
        return Coefficients(self.energy_coefficient, force, self.overfit, stress)

    def attach_model(
        self,
        model: NeuralNetwork,
        images: Mapping[str, Any] | None = None,
        fingerprints: Mapping[str, Any] | None = None,
        fingerprintprimes: Mapping[str, Any] | None = None,
        log: Callable[[str], object] | None = None,
    ) -> None:
        """Attach the model whose loss `get_loss` takes, and its images and fingerprints.

        Left out, they are those of ``model.trainingparameters``, which ``model.fit`` has set.
        `log` is taken for Amp's sake.
        """
        self._model = model
        self._given = (images, fingerprints, fingerprintprimes)
        self._at_hand = None

    def get_loss(self, parametervector: Any, lossprime: bool = True) -> dict[str, Any]:
        """Return the loss of the attached model with these parameters, and its parts by name.

        The model gets the parameters, and the parts are kept as attributes. Every rank does
        the whole work.

        Raises
        ------
        ConvergenceOccurred
            The criteria are met, and `raise_ConvergenceOccurred` is set.
        ModelError
            No model is attached, or images or fingerprints are missing.
        """
        model = self._model
        if model is None:
            raise ModelError("the loss function has no model: attach one with attach_model")
        if self._at_hand is None:
            self._at_hand = ImagesAtHand(
                *self._images_of(model),
                descriptor=self._descriptor_of(model),
                weight_duplicates=self.weight_duplicates,
                nft_ids=self.nft_ids or (),
            )
        self._step += 1
        vector = np.array(parametervector, dtype=float)
        model.vector = vector
        scaled = self._at_hand.scaled(model)
        terms = loss_terms(model, self, scaled, vector, gradient=lossprime)
        self.remember(terms)
        is_over = (
            meets(self, terms, self._at_hand.n_images, self._at_hand.n_stresses)
            or self._step > self.maxiter
        )
        if self.raise_ConvergenceOccurred and is_over:
            raise ConvergenceOccurred
        parts = terms._asdict()
        for name in ("energy_squares", "force_squares"):  # the same as the losses here
            del parts[name]
        if not self.trains_stress:  # Amp's names, and no others
            parts = {name: part for name, part in parts.items() if not name.startswith("stress")}
        return parts

    def _descriptor_of(self, model: NeuralNetwork) -> Any:
        """Return what gives the derivatives by strain, where stresses are trained."""
        if not self.trains_stress:
            return None
        descriptor = getattr(model.trainingparameters, "descriptor", None)
        if not hasattr(descriptor, "strain_derivatives"):
            raise ModelError(
                "stresses are to be trained, which takes a descriptor with derivatives by strain: "
                "call model.fit with only_setup=True first, or leave the stress_coefficient out"
            )
        return descriptor

    def _images_of(self, model: NeuralNetwork) -> tuple[Any, Any, Any]:
        """Return images, fingerprints and derivatives: those attached, or the training's."""
        images, fingerprints, primes = self._given
        descriptor = getattr(model.trainingparameters, "descriptor", None)
        if images is None:
            images = getattr(model.trainingparameters, "images", None)
        if fingerprints is None:
            fingerprints = getattr(descriptor, "fingerprints", None)
        if primes is None and self.trains_forces:
            primes = getattr(descriptor, "fingerprintprimes", None)
        if images is None or fingerprints is None:
            raise ModelError(
                "the loss function has no images or no fingerprints: give them to attach_model, "
                "or call model.fit with only_setup=True"
            )
        if self.trains_forces and primes is None:
            raise ModelError(
                "forces are to be trained, but the descriptor has no fingerprint primes; call "
                "calculate_fingerprints with calculate_derivatives=True first"
            )
        return images, fingerprints, primes

    def remember(self, terms: LossTerms) -> None:
        """Keep a loss and its parts as attributes."""
        for name, value in terms._asdict().items():
            if name != "dloss_dparameters" or value is not None:
                setattr(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the images out of what is copied or sent."""
        return {**vars(self), "_given": (None, None, None), "_at_hand": None}

    def settings(self) -> dict[str, Any]:
        """Return all parameters, checked; the coefficient of forces is None without them.

        What is about stresses is there only where these are trained.

        Raises
        ------
        InputError
            One of them is wrong.
        """
        convergence = self.convergence
        limited = [name for name in STRESS_CRITERIA if convergence.get(name) is not None]
        if limited and not self.trains_stress:
            raise InputError(
                f"LossFunction: convergence has {limited[0]}, but no stresses are trained: give a "
                "stress_coefficient such as 0.1, or leave the criterion out"
            )
        stress = {"stress_coefficient": self.stress_coefficient} if self.trains_stress else {}
        return {
            "convergence": {
                name: None if (limit := convergence.get(name)) is None else float(limit)
                for name in (*CRITERIA, *(STRESS_CRITERIA if stress else ()))
            },
            **stress,
            "energy_coefficient": self.energy_coefficient,
            "force_coefficient": self.coefficients.force,
            "overfit": self.overfit,
            "weight_duplicates": self.weight_duplicates,
            "maxiter": self.maxiter,
            "nft_ids": self.nft_ids,
            "d": _positive("d", self.d),
        }


class Regressor:
    """The optimiser, with Amp's keywords.

    Parameters
    ----------
    optimizer : str or callable
        'BFGS' as in Amp, 'L-BFGS-B', 'TNC', 'Newton-CG' or 'Nelder-Mead' of scipy; 'gauss-newton',
        L-BFGS preconditioned by the Gauss-Newton matrix, which needs the fewest steps for up
        to some 5,000 parameters; or a function that is called as scipy's ``minimize`` is.
    optimizer_kwargs : dict, optional
        Further keywords of ``minimize``. As in Amp its ``options`` replace the defaults. Those
        of 'gauss-newton' are the attributes of `ampmpi.model.gauss_newton.Options`.
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

    def regress(self, model: Any, log: Callable[[str], object] | None = None) -> bool:
        """Lower ``model.get_loss`` from ``model.vector`` on; return whether it converged.

        This is for models of one's own, which are like Amp's; it keeps no checkpoints.
        """
        from scipy.optimize import minimize

        if self.optimizer == "gauss-newton":
            raise InputError(
                "Regressor: gauss-newton trains the models of ampmpi alone; take L-BFGS-B for "
                "those of your own"
            )
        own = not isinstance(self.optimizer, str)
        minimiser: Any = self.optimizer if own else minimize
        keywords = dict(self.optimizer_kwargs)
        if log is not None:
            log("Starting parameter optimization.")
        try:
            minimiser(
                model.get_loss,
                np.array(model.vector, dtype=float),
                jac=self.lossprime,
                args=(self.lossprime,),
                **keywords,
            )
        except ConvergenceOccurred:
            return True
        return False

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
