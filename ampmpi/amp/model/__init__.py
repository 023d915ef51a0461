"""Amp's ``amp.model``."""

from __future__ import annotations

from ampmpi.amp._left_out import refuser
from ampmpi.model import LossFunction

__all__ = ["LossFunction"]

__getattr__ = refuser("model")
