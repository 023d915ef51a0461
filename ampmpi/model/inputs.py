"""What a training takes for the inputs of its networks.

A model scales a feature by the range that it has in the training set, as Amp does, and the range
is what its file says of the set. A training may scale by mean and standard deviation instead,
and take constant features out. The networks' first layers, which are linear in the inputs, make
up for the difference: parameters of the training are converted exactly, up to rounding, to those
with which a model that scales by range is the same function, and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ampmpi.model.layers import Array
from ampmpi.model.network import Network
from ampmpi.model.scaling import Spread, deviation_range, is_constant, rescaling


@dataclass(frozen=True, eq=False)
class Inputs:
    """How a training scales features, and how its parameters become the model's.

    Attributes
    ----------
    network : Network
        Shape of the model.
    model_ranges : mapping of str to (n_features, 2) float array
        By which the model scales.
    ranges : mapping of str to (n_features, 2) float array
        By which the training does.
    dropped : mapping of str to (n_features,) bool array
        Features that are left out: their weights are 0 and stay so.
    """

    network: Network
    model_ranges: Mapping[str, Array]
    ranges: Mapping[str, Array]
    dropped: Mapping[str, NDArray[np.bool_]]

    def to_model(self, vector: Array) -> Array:
        """Return the model's parameters for those of the training."""
        return self._converted(vector, self.ranges, self.model_ranges)

    def from_model(self, vector: Array) -> Array:
        """Return the training's parameters for those of the model."""
        return self._converted(vector, self.model_ranges, self.ranges)

    def gradient_to_model(self, gradient: Array) -> Array:
        """Return the derivative by the model's parameters for that by the training's."""
        if self.ranges is self.model_ranges:
            return gradient
        found = gradient.copy()
        for element, part in self.network.split(found).items():
            factor, shift = rescaling(self.model_ranges[element], self.ranges[element])
            first = part.layers[0]
            first[:-1] = factor[:, np.newaxis] * first[:-1] + np.outer(shift, first[-1])
        return found

    def _converted(
        self, vector: Array, before: Mapping[str, Array], after: Mapping[str, Array]
    ) -> Array:
        if before is after:
            return vector
        found = vector.copy()
        for element, part in self.network.split(found).items():
            factor, shift = rescaling(before[element], after[element])
            first = part.layers[0]
            first[-1] += shift @ first[:-1]
            first[:-1] *= factor[:, np.newaxis]
        return found


def make_inputs(
    network: Network,
    vector: Array,
    model_ranges: Mapping[str, Array],
    found: Mapping[str, Array],
    spreads: Mapping[str, Spread],
    *,
    scale: str,
    constant: str,
) -> Inputs:
    """Choose what a training takes for its inputs.

    Parameters
    ----------
    network : Network
        Shape of the model.
    vector : (n_parameters,) float array
        Its parameters. Only features whose weights are 0 can be dropped.
    model_ranges : mapping of str to (n_features, 2) float array
        By which it scales.
    found, spreads : mapping of str to (n_features, 2) float array, and to Spread
        What the features of the training images have, by element.
    scale : {'range', 'deviation'}
        How the training scales; elements that its images lack are scaled by the model's range.
    constant : {'keep', 'drop'}
        What becomes of features that are constant.
    """
    ranges = model_ranges
    if scale == "deviation":
        ranges = {
            element: deviation_range(spreads[element]) if element in spreads else known
            for element, known in model_ranges.items()
        }
    dropped = {}
    if constant == "drop":
        parts = network.split(vector)
        for element, known in found.items():
            unused = (parts[element].layers[0][:-1] == 0.0).all(axis=1)
            dropped[element] = is_constant(known) & unused
    return Inputs(network, model_ranges, ranges, dropped)
