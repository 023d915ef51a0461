"""`Predictor`: a trained model's parameters as the kernels take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import ModelError
from ampmpi.model.layers import Array, ElementParameters, predict
from ampmpi.model.scaling import NARROWEST


@dataclass(frozen=True, eq=False)
class Predictor:
    """What a model was when this was made; it does not follow the model.

    Attributes
    ----------
    parameters : mapping of str to ElementParameters
        The network of each element.
    ranges : mapping of str to (n_features, 2) float array
        Range of each feature in the training set.
    activation : int
        The activation function as the kernels take it.
    """

    parameters: Mapping[str, ElementParameters]
    ranges: Mapping[str, Array]
    activation: int

    def check(self, element: str, n_features: int) -> None:
        """Raise `ModelError` unless the model has this element with so many features."""
        if element not in self.ranges:
            raise ModelError(
                f"the image holds {element}, an element that the model lacks "
                f"(it has {', '.join(sorted(self.ranges))})"
            )
        if len(self.ranges[element]) != n_features:
            raise ModelError(
                f"the model takes {len(self.ranges[element])} features for {element}, but the "
                f"descriptor gives {n_features}: model and descriptor do not belong together"
            )

    def predict(
        self, element: str, rows: NDArray[np.int64], features: Array, energies: Array, dE_dG: Array
    ) -> None:
        """Write atomic energies, and their derivatives by features, of one element's atoms.

        Parameters
        ----------
        element : str
            The element.
        rows : (n,) int64 array
            Which rows of the other arrays are atoms of this element.
        features : (n_atoms, max_features) float array
            Features of atoms.
        energies : (n_atoms,) float array, eV
            Written.
        dE_dG : (n_atoms, max_features) float array, eV
            Its first columns are written.
        """
        predict(
            self.parameters[element],
            self.ranges[element],
            NARROWEST,
            rows,
            features,
            self.activation,
            energies,
            dE_dG,
        )
