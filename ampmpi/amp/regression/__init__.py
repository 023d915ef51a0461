"""Amp's ``amp.regression``."""

from __future__ import annotations

from ampmpi.model import Regressor

__all__ = ["Regressor"]
