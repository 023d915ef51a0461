"""Training: from images to the parameters of models, on any number of ranks."""

from __future__ import annotations

from ampmpi.training.alone import train_one
from ampmpi.training.results import MemberResult, TrainingResult
from ampmpi.training.session import Session
from ampmpi.training.settings import Schedule, Settings

__all__ = ["MemberResult", "Schedule", "Session", "Settings", "TrainingResult", "train_one"]
