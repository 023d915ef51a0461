"""Amp's ``amp.descriptor.zernike``."""

from __future__ import annotations

from ampmpi.descriptor import Zernike

__all__ = ["Zernike"]
