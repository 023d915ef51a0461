"""Amp's ``amp.descriptor.analysis``."""

from __future__ import annotations

from ampmpi.amp._violins import FingerprintPlot

__all__ = ["FingerprintPlot"]
