"""Amp's ``amp.descriptor.zernike``."""

from __future__ import annotations

from ampmpi.amp._left_out import refuser
from ampmpi.descriptor import Zernike

__all__ = ["Zernike"]

__getattr__ = refuser("descriptor.zernike")
