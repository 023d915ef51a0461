"""Amp's ``amp.model``."""

from __future__ import annotations

from ampmpi.model import LossFunction

__all__ = ["LossFunction"]
