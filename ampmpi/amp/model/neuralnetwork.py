"""Amp's ``amp.model.neuralnetwork``."""

from __future__ import annotations

from ampmpi.model import NeuralNetwork

__all__ = ["NeuralNetwork"]
