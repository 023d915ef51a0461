"""Amp's ``amp.descriptor.zernike``."""

from __future__ import annotations

import ampmpi.descriptor
from ampmpi.amp._left_out import refuser

if not hasattr(ampmpi.descriptor, "Zernike"):
    raise ImportError("this version of ampmpi has no Zernike descriptor; use Gaussian")
Zernike = ampmpi.descriptor.Zernike

__all__ = ["Zernike"]

__getattr__ = refuser("descriptor.zernike")
