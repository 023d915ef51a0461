"""Amp's configuration of parallel work, which launchers decide here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ampmpi.parallel import launch
from ampmpi.parallel.wishes import note_cores


def assign_cores(
    cores: int | Mapping[str, int] | None, log: Callable[[str], object] | None = None
) -> int | Mapping[str, int]:
    """Return what is given, or the number of ranks; it has no influence on it.

    Parameters
    ----------
    cores : int, mapping of str to int, or None
        Number of processes, or that of each host.
    log : callable, optional
        Called with a line.

    Raises
    ------
    InputError
        `cores` is none of these.
    """
    note_cores(cores)
    ranks = launch.ranks_promised()
    if log is not None:
        log(f"Ranks: {ranks}, from the launcher.")
    return ranks if cores is None else cores
