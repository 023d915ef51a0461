"""Training: from images to the parameters of a model, on any number of ranks."""

from __future__ import annotations

from ampmpi.training.api import TrainingResult, train_calculator
from ampmpi.training.fit import Schedule

__all__ = ["Schedule", "TrainingResult", "train_calculator"]
