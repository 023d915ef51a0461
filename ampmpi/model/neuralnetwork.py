"""`NeuralNetwork`: Amp's model, its keywords and its parameters."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ampmpi.entries import Fingerprint
from ampmpi.errors import InputError, ModelError
from ampmpi.model.amp_methods import AmpModel
from ampmpi.model.layers import ACTIVATIONS, Array
from ampmpi.model.network import Network, random_parameters
from ampmpi.model.predictor import Predictor
from ampmpi.model.scaling import initial_scaling, merge_ranges, prescale, rescaling
from ampmpi.model.settings import LossFunction, Regressor
from ampmpi.parameters import ParametersOf

IMPORT_NAME = ".model.neuralnetwork.NeuralNetwork"
VERSION = "2015.12"
MODE = "atom-centered"

SCALES, CONSTANTS = ("range", "deviation"), ("keep", "drop")

HiddenLayers = int | Sequence[int] | Mapping[str, int | Sequence[int]]


class NeuralNetwork(AmpModel):
    """A feed-forward neural network per element, with Amp's keywords.

    Parameters
    ----------
    hiddenlayers : tuple of int, int or dict
        Nodes of the hidden layers, for all elements or by element.
    activation : {'tanh', 'sigmoid', 'linear'}
        Activation function, of the last layer too.
    weights : dict, optional
        ``{element: {layer: (inputs + 1, nodes) matrix}}``, layers counted from 1, the last
        row the bias. Random unless given.
    scalings : dict, optional
        ``{element: {'intercept': eV, 'slope': eV}}``. From the training's energies unless
        given.
    fprange : dict, optional
        ``{element: [[low, high], …]}``, range of each feature in the training set. From the
        training's fingerprints unless given.
    mode : str, optional
        'atom-centered'; another is refused.
    version : str, optional
        '2015.12'; another is refused.
    regressor : Regressor, optional
        The optimiser.
    lossfunction : LossFunction, optional
        The loss and the convergence criteria.
    fortran : bool
        Taken for Amp's sake; there is no Fortran here, and the numbers are the same.
    checkpoints : int or None
        Steps between checkpoints; negative: keep each in LABEL-checkpoints; None or 0: none
        but those that a restart needs.
    randomseed : int, optional
        Seed of the random weights; gives the ones that Amp draws.
    prescale : bool
        Fit the intercepts to the energies first, by least squares.
    scale_features : {'range', 'deviation'}
        Whether a training scales features by their range, as Amp does, or by their mean and
        standard deviation. The trained model always scales by range: its first layers' weights
        are converted, so that it is the same function.
    constant_features : {'keep', 'drop'}
        Whether features that hardly change over the training images are inputs of networks with
        random weights, or have no weight. 'drop' sets their weights to 0 and leaves them so.

    Raises
    ------
    InputError
        A value is wrong or not supported; the message names it.
    """

    def __init__(
        self,
        hiddenlayers: HiddenLayers = (5, 5),
        activation: str = "tanh",
        weights: Mapping[str, Any] | None = None,
        scalings: Mapping[str, Mapping[str, float]] | None = None,
        fprange: Mapping[str, Any] | None = None,
        mode: str | None = None,
        version: str | None = None,
        regressor: Regressor | None = None,
        lossfunction: LossFunction | None = None,
        fortran: bool = True,
        checkpoints: int | None = 100,
        randomseed: int | None = None,
        prescale: bool = False,
        scale_features: str = "range",
        constant_features: str = "keep",
    ) -> None:
        if version not in (None, VERSION):
            raise InputError(f"NeuralNetwork: version {version} is not known; only {VERSION} is")
        if mode not in (None, MODE):
            raise InputError(f"NeuralNetwork: mode {mode!r} is not supported; only {MODE!r} is")
        self.regressor = Regressor() if regressor is None else regressor
        if not isinstance(self.regressor, Regressor):
            raise InputError(f"NeuralNetwork: regressor is {regressor!r}; give a Regressor(...)")
        self.lossfunction = LossFunction() if lossfunction is None else lossfunction
        self.activation = _known_activation(activation)
        self.hiddenlayers = _hidden(hiddenlayers)
        self.fprange = None if fprange is None else _ranges(fprange)
        self.layers = None if weights is None else _layers(weights)
        self.scalings = None if scalings is None else _scalings(scalings)
        self.fortran = fortran
        self.checkpoints = checkpoints
        self.randomseed = randomseed
        self.prescale = prescale
        self.scale_features = _one_of("scale_features", scale_features, SCALES)
        self.constant_features = _one_of("constant_features", constant_features, CONSTANTS)
        self.trainingparameters = SimpleNamespace()
        if self.fprange is not None:
            self._check()

    def __repr__(self) -> str:
        try:
            network = self.network
        except ModelError:  # the features, or the layers of an element, are not known yet
            layers = f"hidden layers {self.hiddenlayers}"
        else:
            shapes = (f"{e} {'-'.join(map(str, nodes))}" for e, nodes in network.nodes.items())
            layers = f"{', '.join(shapes)}; {network.n_parameters} parameters"
        state = "trained" if self.is_whole else "not trained"
        return f"<NeuralNetwork: {layers}, {self.activation}, {state}>"

    @property
    def forcetraining(self) -> bool:
        """Whether a training includes forces."""
        return self.lossfunction.trains_forces

    @property
    def is_whole(self) -> bool:
        """Whether the model has everything that it needs in order to predict."""
        return None not in (self.fprange, self.layers, self.scalings)

    @property
    def network(self) -> Network:
        """Shape of the networks.

        Raises
        ------
        ModelError
            The ranges of the features are not known yet.
        """
        if self.fprange is None:
            raise ModelError("the model is not trained yet: train it, or load a .amp file")
        return self.network_for({e: len(fprange) for e, fprange in self.fprange.items()})

    def network_for(self, n_features: Mapping[str, int]) -> Network:
        """Shape of the networks for so many features by element."""
        nodes = {}
        for element, n in n_features.items():
            hidden = self.hiddenlayers
            if isinstance(hidden, dict):
                if element not in hidden:
                    raise ModelError(f"hiddenlayers has no entry for {element}; add one")
                hidden = hidden[element]
            nodes[element] = (n, *hidden, 1)
        return Network(nodes, self.activation)

    @property
    def vector(self) -> Array:
        """All parameters as one vector, in Amp's order; setting it changes the model."""
        network = self.network
        if self.layers is None or self.scalings is None:
            raise ModelError("the model has no parameters yet: train it, or load a .amp file")
        if not self._fits(network):
            self._check()
        vector = np.empty(network.n_parameters)
        for element, target in network.split(vector).items():
            for k, layer in enumerate(target.layers):
                layer[:] = self.layers[element][k]
            target.scaling[:] = self.scalings[element]
        return vector

    @vector.setter
    def vector(self, vector: Array) -> None:
        parts = self.network.split(np.array(vector, dtype=float))
        self.layers = {element: list(part.layers) for element, part in parts.items()}
        self.scalings = {element: part.scaling for element, part in parts.items()}

    @property
    def lossfunction(self) -> LossFunction:
        """The loss and the convergence criteria; setting one attaches the model to it."""
        return self._lossfunction

    @lossfunction.setter
    def lossfunction(self, lossfunction: LossFunction) -> None:
        if not isinstance(lossfunction, LossFunction):
            raise InputError(
                f"NeuralNetwork: lossfunction is {lossfunction!r}; give a LossFunction(...)"
            )
        lossfunction.attach_model(self)
        self._lossfunction = lossfunction

    @property
    def parameters(self) -> ParametersOf:
        """The parameters as Amp's class takes them and its files keep them; they can be set.

        Raises
        ------
        InputError, ModelError
            A value that is set is wrong, or is not to be set.
        """
        return ParametersOf(self._parameters, self._set_parameter)

    def _parameters(self) -> dict[str, Any]:
        hidden: Any = self.hiddenlayers
        weights = scalings = None
        if self.fprange is not None:
            hidden = {e: tuple(n[1:-1]) for e, n in sorted(self.network.nodes.items())}
        if self.layers is not None:
            weights = {e: dict(enumerate(self.layers[e], 1)) for e in sorted(self.layers)}
        if self.scalings is not None:
            scalings = {
                e: {"intercept": float(self.scalings[e][0]), "slope": float(self.scalings[e][1])}
                for e in sorted(self.scalings)
            }
        return {
            "importname": IMPORT_NAME,
            "version": VERSION,
            "mode": MODE,
            "hiddenlayers": hidden,
            "activation": self.activation,
            "weights": weights,
            "scalings": scalings,
            "fprange": self.fprange,
        }

    def _set_parameter(self, name: str, value: Any) -> None:
        if name == "hiddenlayers":
            self.hiddenlayers = _hidden(value)
        elif name == "activation":
            self.activation = _known_activation(value)
        elif name == "weights":
            self.layers = None if value is None else _layers(value)
        elif name == "scalings":
            self.scalings = None if value is None else _scalings(value)
        elif name == "fprange":
            self.fprange = None if value is None else _ranges(value)
        elif value != self._parameters()[name]:
            raise InputError(
                f"NeuralNetwork: {name} cannot be set to {value!r}; it is "
                f"{self._parameters()[name]!r}"
            )

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> NeuralNetwork:
        """Build a model from `parameters`, such as a .amp file holds.

        Raises
        ------
        ModelError
            They are of another kind of model, or wrong.
        """
        given = dict(parameters)
        kind = given.pop("importname", IMPORT_NAME)
        if kind != IMPORT_NAME:
            raise ModelError(f"the model is a {kind}; only NeuralNetwork is supported")
        try:
            return cls(**given)
        except TypeError as error:
            raise ModelError(f"the model's parameters are wrong: {error}") from error

    def initialise(self, fprange: Mapping[str, Array], energies: Array, composition: Array) -> None:
        """Fill in what is not given yet: ranges, random weights, scalings.

        Parameters
        ----------
        fprange : mapping of str to (n_features, 2) float array
            Ranges of the features in the training set.
        energies : (n_images,) float array, eV
            Energies of the training set.
        composition : (n_images, n_elements) float array
            Number of atoms of each element of `fprange`, sorted.
        """
        if self.fprange is None:
            self.fprange = {e: np.array(fprange[e], dtype=float) for e in sorted(fprange)}
        lacking = sorted(set(fprange) - set(self.fprange))
        if lacking:
            raise ModelError(
                f"the images hold {', '.join(lacking)}, which the model lacks "
                f"(it has {', '.join(sorted(self.fprange))})"
            )
        network = self.network
        if self.layers is None:
            self.layers = random_parameters(network, self.randomseed)
        if self.scalings is None:
            intercept, slope = initial_scaling(energies, composition.sum(axis=1), self.activation)
            self.scalings = {e: np.array([intercept, slope]) for e in network.elements}
            if self.prescale:
                found = prescale(energies, composition)
                for element, value in zip(sorted(fprange), found, strict=True):
                    self.scalings[element] = np.array([value, 1.0])
        self._check()

    def widen(self, fprange: Mapping[str, Array]) -> None:
        """Widen the ranges of features so that they include others; the function stays the same.

        The first layers' weights are adapted exactly, up to rounding. Elements that the model
        lacks, and ranges of a model that is not whole, are left alone.

        Parameters
        ----------
        fprange : mapping of str to (n_features, 2) float array
            Ranges to include, by element.
        """
        if self.fprange is None or self.layers is None:
            return
        for element in sorted(set(fprange) & set(self.fprange)):
            before = self.fprange[element]
            after = merge_ranges([{element: before}, {element: fprange[element]}])[element]
            if np.array_equal(before, after):
                continue
            factor, shift = rescaling(before, after)
            first = self.layers[element][0].copy()
            first[-1] += shift @ first[:-1]
            first[:-1] *= factor[:, np.newaxis]
            self.layers[element][0] = first
            self.fprange[element] = after

    def atomic_energies(self, fingerprint: Fingerprint) -> tuple[Array, Array]:
        """Energies of the atoms and their derivatives.

        Parameters
        ----------
        fingerprint : Fingerprint
            Features of the atoms.

        Returns
        -------
        energies : (n_atoms,) float array, eV
        dE_dG : (n_atoms, max_features) float array, eV

        Raises
        ------
        ModelError
            An element is missing from the model, or has another number of features.
        """
        predictor = self.predictor
        energies = np.empty(len(fingerprint.symbols))
        dE_dG = np.zeros_like(fingerprint.values)
        symbols = np.array(fingerprint.symbols)
        for element in sorted(set(fingerprint.symbols)):
            predictor.check(element, fingerprint.n_features[element])
            rows = np.flatnonzero(symbols == element)
            predictor.predict(element, rows, fingerprint.values, energies, dE_dG)
        return energies, dE_dG

    @property
    def predictor(self) -> Predictor:
        """The parameters as they are now, as the kernels take them.

        Raises
        ------
        ModelError
            The model is not trained.
        """
        state = self._state()
        kept: tuple[Any, Array, Predictor] | None = self.__dict__.get("_last_predictor")
        if kept is not None and kept[0] == state[0] and np.array_equal(kept[1], state[1]):
            return kept[2]
        network = self.network
        parts = network.split(self.vector)
        assert self.fprange is not None
        ranges = {e: np.ascontiguousarray(self.fprange[e], dtype=float) for e in parts}
        found = Predictor(parts, ranges, network.activation_index)
        self.__dict__["_last_predictor"] = *state, found
        return found

    def _state(self) -> tuple[Any, Array]:
        """Return everything that a prediction depends on: names and shapes, and numbers."""
        groups = self.fprange or {}, self.layers or {}, self.scalings or {}
        names: list[Any] = [self.activation, repr(self.hiddenlayers)]
        arrays = [np.empty(0)]
        for group in groups:
            for element, found in group.items():
                several = found if isinstance(found, list) else [found]
                names += [element, *(one.shape for one in several)]
                arrays += [one.ravel() for one in several]
        return names, np.concatenate(arrays)

    def _fits(self, network: Network) -> bool:
        """Whether the weights have the network's shapes, and every element its scaling."""
        layers, scalings = self.layers or {}, self.scalings or {}
        return all(
            element in layers
            and element in scalings
            and [layer.shape for layer in layers[element]]
            == [(a + 1, b) for a, b in zip(nodes, nodes[1:])]  # noqa: B905, RUF007
            for element, nodes in network.nodes.items()
        )

    def _check(self) -> None:
        """Refuse parameters that do not fit together."""
        network = self.network
        if self.layers is not None:
            for element, layer, shape in network.shapes:
                given = self.layers.get(element, [])
                if len(given) != len(network.nodes[element]) - 1 or given[layer - 1].shape != shape:
                    shapes = [matrix.shape for matrix in given]
                    raise ModelError(
                        f"weights of {element} have the shapes {shapes}, which do not fit "
                        f"{network.nodes[element]} nodes with a row for the bias"
                    )
        if self.scalings is not None and set(network.elements) - set(self.scalings):
            raise ModelError(
                f"scalings lack {', '.join(sorted(set(network.elements) - set(self.scalings)))}"
            )


def _one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise InputError(f"NeuralNetwork: {name} is {value!r}; use {' or '.join(map(repr, known))}")
    return value


def _known_activation(name: Any) -> str:
    if name not in ACTIVATIONS:
        raise InputError(
            f"NeuralNetwork: unknown activation {name!r}; use {', '.join(ACTIVATIONS)}"
        )
    return str(name)


def _hidden(hidden: HiddenLayers) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    if isinstance(hidden, Mapping):
        return {element: _nodes(nodes) for element, nodes in hidden.items()}
    return _nodes(hidden)


def _nodes(nodes: Any) -> tuple[int, ...]:
    try:
        several = nodes if isinstance(nodes, Iterable) else (nodes,)
        values = tuple(operator.index(n) for n in several)
    except TypeError:
        values = ()
    if not values or min(values) < 1:
        raise InputError(
            f"NeuralNetwork: hiddenlayers {nodes!r} is not a number of nodes for each layer, "
            "such as (5, 5)"
        )
    return values


def _matrix(value: Any, what: str) -> Array:
    try:
        matrix = np.array(value, dtype=float)
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{what} hold something other than numbers") from error
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise ModelError(f"{what} are not a matrix of finite numbers")
    return matrix


def _ranges(fprange: Mapping[str, Any]) -> dict[str, Array]:
    ranges = {e: _matrix(fprange[e], f"the fprange of {e}") for e in sorted(fprange)}
    for element, matrix in ranges.items():
        if matrix.shape[1] != 2:
            raise ModelError(f"the fprange of {element} is not a list of pairs (low, high)")
    return ranges


def _layers(weights: Mapping[str, Any]) -> dict[str, list[Array]]:
    try:
        return {
            e: [_matrix(weights[e][k], f"the weights of {e}") for k in sorted(weights[e])]
            for e in sorted(weights)
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise ModelError("weights are not {element: {layer: matrix}}") from error


def _scalings(scalings: Mapping[str, Mapping[str, float]]) -> dict[str, Array]:
    try:
        found = {
            e: np.array([float(s["intercept"]), float(s["slope"])])
            for e, s in sorted(scalings.items())
        }
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(
            "scalings are not {element: {'intercept': number, 'slope': number}}"
        ) from error
    if not all(np.isfinite(s).all() for s in found.values()):
        raise ModelError("scalings hold numbers that are not finite")
    return found
