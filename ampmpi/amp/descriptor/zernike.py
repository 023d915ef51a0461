"""Amp's ``amp.descriptor.zernike``."""

from __future__ import annotations

import ampmpi.descriptor

if not hasattr(ampmpi.descriptor, "Zernike"):
    raise ImportError("this version of ampmpi has no Zernike descriptor; use Gaussian")
Zernike = ampmpi.descriptor.Zernike

__all__ = ["Zernike"]
