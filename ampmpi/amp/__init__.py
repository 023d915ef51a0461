"""The package under Amp's module names: what ``from amp import …`` means in ``ampmpi run``."""

from __future__ import annotations

from ampmpi import Amp
from ampmpi.amp._left_out import refuser

__all__ = ["Amp"]

__getattr__ = refuser("")
