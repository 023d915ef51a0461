"""Amp's ``amp.model.neuralnetwork``."""

from __future__ import annotations

from ampmpi.amp._left_out import refuser
from ampmpi.amp._violins import NodePlot
from ampmpi.model import NeuralNetwork

__all__ = ["NeuralNetwork", "NodePlot"]

__getattr__ = refuser("model.neuralnetwork")
