"""Amp's ``amp.convert``, whose functions are left out."""

from __future__ import annotations

from ampmpi.amp._left_out import refuser

__getattr__ = refuser("convert")
