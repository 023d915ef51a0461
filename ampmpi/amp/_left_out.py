"""What of Amp's public names has no counterpart here, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

RANKS = "ranks come from mpirun, and no worker is started by a script"
SCRATCH = "it is a step of Amp's own calculation, which is done by compiled kernels here"

LEFT_OUT: dict[str, dict[str, str]] = {
    "utilities": {
        "MessageDictionary": RANKS,
        "assign_cores": RANKS,
        "enforce_magnetic_moments": "set the magnetic moments with ASE's own methods",
        "extract_an_atomic_chunk": "nearsighted force training goes no further than nft_ids here",
        "get_atomic_uncertainties": "BootStrap gives the predictions of all members with output "
        "'e', and Committee the spread of the forces",
        "get_overfit_mask": SCRATCH,
        "importer": "it handles modules that old versions of ASE and pexpect had elsewhere",
        "make_sublists": RANKS,
        "parse_slurm_allocation": RANKS,
        "setup_parallel": RANKS,
        "start_workers": RANKS,
    },
}
"""Names by Amp's module, each with the reason; ``"*"`` stands for a whole module."""


class LeftOutError(ImportError):
    """A name of Amp that is not here."""


def refuser(module: str) -> Callable[[str], NoReturn]:
    """Return a module's ``__getattr__``, which says why a name of Amp's is not there."""
    reasons = LEFT_OUT.get(module, {})

    def refuse(name: str) -> NoReturn:
        if name in reasons:
            raise LeftOutError(f"amp.{module}.{name} is left out here: {reasons[name]}", name=name)
        raise AttributeError(f"module 'ampmpi.amp.{module}' has no attribute {name!r}")

    return refuse


def refuse_module(module: str) -> NoReturn:
    """Say why a whole module of Amp's is not there."""
    raise LeftOutError(f"amp.{module} is left out here: {LEFT_OUT[module]['*']}", name=module)
