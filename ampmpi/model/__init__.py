"""Neural networks, their loss, and the files that hold them."""

from __future__ import annotations

from ampmpi.model.neuralnetwork import NeuralNetwork
from ampmpi.model.settings import LossFunction, Regressor

__all__ = ["LossFunction", "NeuralNetwork", "Regressor"]
