"""Potentials as files of other programs: n2p2 (LAMMPS' pair style hdnnp), OpenKIM, PROPhet."""

from __future__ import annotations

from .n2p2 import save_to_n2p2
from .openkim import save_to_openkim
from .prophet import save_to_prophet

__all__ = ["save_to_n2p2", "save_to_openkim", "save_to_prophet"]
