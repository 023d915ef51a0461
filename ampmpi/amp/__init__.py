"""The package under Amp's module names: what ``from amp import …`` means in ``ampmpi run``."""

from __future__ import annotations

from ampmpi import Amp

__all__ = ["Amp"]
