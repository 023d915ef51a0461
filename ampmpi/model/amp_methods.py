# ruff: noqa: D102  (NeuralNetwork says what is declared here)
"""What Amp's scripts call on a model when they take predictions or a training apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ampmpi.entries import Fingerprint, forces_of
from ampmpi.errors import InputError, ModelError, TrainingConvergenceError
from ampmpi.model.by_hand import ImagesAtHand, fingerprint_of, primes_of
from ampmpi.model.layers import Array

if TYPE_CHECKING:
    from ampmpi.model.network import Network
    from ampmpi.model.settings import LossFunction, Regressor
    from ampmpi.parameters import ParametersOf


class AmpModel:
    """Amp's methods of a model.

    Attributes
    ----------
    parent : Amp or None
        The calculator that the model belongs to.
    trainingparameters : SimpleNamespace
        What `fit` was given: ``images`` and ``descriptor``.
    observer : callable or None
        Called with the model, the parameters and the loss at each step of a training, by the
        rank that makes the steps.
    """

    if TYPE_CHECKING:
        fprange: dict[str, Array] | None
        layers: dict[str, list[Array]] | None
        scalings: dict[str, Array] | None
        lossfunction: LossFunction
        regressor: Regressor
        randomseed: int | None
        trainingparameters: SimpleNamespace
        vector: Array

        @property
        def parameters(self) -> ParametersOf: ...
        @property
        def network(self) -> Network: ...
        @property
        def atomic_energies(self) -> Callable[[Fingerprint], tuple[Array, Array]]: ...
        @property
        def initialise(self) -> Callable[[Mapping[str, Array], Array, Array], None]: ...

    parent: Any = None
    observer: Callable[[Any, Array, float], object] | None = None

    def tostring(self) -> str:
        """Return the text from which Amp makes the model again, as a .amp file holds it."""
        return self.parameters.tostring()

    def calculate_energy(self, fingerprints: Any) -> float:
        """Return the energy of an image, eV.

        Parameters
        ----------
        fingerprints : list of (symbol, values)
            Its fingerprint.

        Raises
        ------
        ModelError
            The model is not trained, lacks an element, or has another number of features.
        """
        return float(self.atomic_energies(fingerprint_of(fingerprints))[0].sum())

    def calculate_atomic_energy(self, afp: Any, index: int | None, symbol: str) -> float:
        """Return the energy of one atom, eV, from its features `afp`; `index` does not matter."""
        return self.calculate_energy([(symbol, afp)])

    def calculate_forces(self, fingerprints: Any, fingerprintprimes: Any) -> Array:
        """Return the forces on the atoms of an image, (n_atoms, 3) float array, eV/Å.

        Parameters
        ----------
        fingerprints : list of (symbol, values)
            Its fingerprint.
        fingerprintprimes : dict
            The derivatives: ``{(m, symbol, n, symbol, direction): values}``.

        Raises
        ------
        ModelError
            As `calculate_energy`; or the derivatives do not fit the fingerprint.
        """
        fingerprint = fingerprint_of(fingerprints)
        primes = primes_of(fingerprintprimes, fingerprint)
        dE_dG = self.atomic_energies(fingerprint)[1]
        return forces_of(primes, dE_dG)

    def calculate_force(
        self,
        afp: Any,
        derafp: Any,
        direction: int,
        nindex: int | None = None,
        nsymbol: str | None = None,
    ) -> float:
        """Return what one atom's energy adds to a component of a force, eV/Å.

        That is -Σ dE/dG · dG/dR, with the features `afp` of the atom, of the element `nsymbol`,
        and their derivatives `derafp`; the other arguments do not matter.
        """
        dE_dG = self.atomic_energies(fingerprint_of([(nsymbol, afp)]))[1][0]
        return float(-(dE_dG @ np.asarray(derafp, dtype=float)))

    def randomize(
        self,
        trainingimages: Mapping[str, Any] | None = None,
        weights: bool = True,
        scalings: bool = True,
        seed: int | None = None,
    ) -> None:
        """Draw the weights anew, and take the scalings from the energies of images.

        Parameters
        ----------
        trainingimages : mapping of str to ase.Atoms, optional
            Hashed images; needed for the scalings.
        weights, scalings : bool
            Which of them to make anew.
        seed : int, optional
            Seed of the weights; gives the ones that Amp draws.

        Raises
        ------
        ModelError
            The ranges of the features are not known yet.
        InputError
            The scalings are to be made, and there are no images.
        """
        from ampmpi.model.network import random_parameters
        from ampmpi.model.scaling import initial_scaling

        network = self.network
        if scalings and not trainingimages:
            raise InputError(
                "randomize: scalings come from the energies of images; give trainingimages, or "
                "scalings=False"
            )
        if weights:
            self.layers = random_parameters(network, seed)
        if scalings:
            images = list((trainingimages or {}).values())
            energies = [atoms.get_potential_energy(apply_constraint=False) for atoms in images]
            intercept, slope = initial_scaling(
                np.array(energies, dtype=float),
                np.array([len(atoms) for atoms in images]),
                network.activation,
            )
            self.scalings = {e: np.array([intercept, slope]) for e in network.elements}

    def get_loss(self, vector: Array, lossprime: bool) -> Any:
        """Return the loss at a point, and its gradient with `lossprime`; for optimisers.

        Raises
        ------
        ConvergenceOccurred
            The criteria are met.
        ModelError
            There are no images or fingerprints: `fit` with `only_setup` sets them.
        """
        terms = self.lossfunction.get_loss(vector, lossprime=lossprime)
        if self.observer is not None:
            self.observer(self, vector, terms["loss"])
        return (terms["loss"], terms["dloss_dparameters"]) if lossprime else terms["loss"]

    def fit(
        self,
        trainingimages: Mapping[str, Any],
        descriptor: Any,
        log: Callable[[str], object] | None = None,
        parallel: Mapping[str, Any] | None = None,
        only_setup: bool = False,
    ) -> bool | None:
        """Fit the model to images, as ``Amp.train`` does after it has hashed them.

        Parameters
        ----------
        trainingimages : mapping of str to ase.Atoms
            Hashed images.
        descriptor : Gaussian or other descriptor
            With its fingerprints where `only_setup` is set, or where it is like Amp's.
        log : callable, optional
            Called with what Amp's log says; ours is LABEL-log.txt.
        parallel : dict, optional
            Taken for Amp's sake; the ranks come from ``mpirun``.
        only_setup : bool
            Only give the model ranges, weights and scalings.

        Returns
        -------
        bool or None
            Whether the training converged; None with `only_setup`.

        Raises
        ------
        ModelError
            The descriptor has no fingerprints of an image.
        """
        self.trainingparameters = SimpleNamespace(images=trainingimages, descriptor=descriptor)
        is_whole = hasattr(descriptor, "predict_cost")
        if only_setup or not is_whole:
            self.lossfunction.attach_model(self)  # type: ignore[arg-type]
            self._set_up(trainingimages, descriptor)
        if only_setup:
            return None
        if not is_whole:
            return self.regressor.regress(self, log)
        from ampmpi.training import train_one

        try:
            train_one(
                trainingimages,
                descriptor,
                self,  # type: ignore[arg-type]
                label=getattr(self.parent, "label", None) or "amp",
                dblabel=getattr(self.parent or descriptor, "dblabel", None),
            )
        except TrainingConvergenceError:
            return False
        return True

    def _set_up(self, images: Mapping[str, Any], descriptor: Any) -> None:
        """Give the model what it lacks, from images and the descriptor's fingerprints."""
        fingerprints = getattr(descriptor, "fingerprints", None)
        if fingerprints is None:
            raise ModelError(
                "the descriptor has no fingerprints yet: call its calculate_fingerprints with the "
                "images first"
            )
        at_hand = ImagesAtHand(images, fingerprints)
        ranges = at_hand.fprange()
        self.initialise(ranges, at_hand.energies(), at_hand.composition(sorted(ranges)))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of what is copied or sent what does not belong to the model."""
        return {**vars(self), "parent": None, "trainingparameters": SimpleNamespace()}
