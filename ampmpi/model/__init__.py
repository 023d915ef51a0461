"""Neural networks, their loss, and the files that hold them."""

from __future__ import annotations

from ampmpi.model.neuralnetwork import NeuralNetwork
from ampmpi.model.settings import LossFunction, Regressor
from ampmpi.model.warmup import warm_up

__all__ = ["LossFunction", "NeuralNetwork", "Regressor", "warm_up"]
