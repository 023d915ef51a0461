"""Potentials inside LAMMPS: energies, forces and virial by our kernels, everything else by LAMMPS.

LAMMPS stays as it is. Its ``pair_style zero`` provides for neighbours on other ranks and beyond
periodic boundaries, and its ``fix external`` calls back once per step for forces. A rank
computes the atoms that LAMMPS gives it; forces on atoms that it only sees as neighbours are
returned to the ranks that own them.
"""

from __future__ import annotations

from .attach import attach
from .coupling import Coupling
from .library import open_lammps
from .script import run_script
from .watch import Watch

__all__ = ["Coupling", "Watch", "attach", "open_lammps", "run_script"]
