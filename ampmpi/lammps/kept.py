"""Candidates that are kept from step to step, while they are sure to hold all neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.descriptor import candidates_among
from ampmpi.errors import ImageError

SKIN = 1.0
"""Å; atoms within the cutoff and this are candidates.

LAMMPS finds its ghosts anew before an atom beyond them could come closer than the cutoff,
whatever its own skin is. A skin of ours that is smaller costs more rebuilding, a larger one more
distances per step.
"""


class Kept:
    """Candidates of the local atoms among all that LAMMPS shows, ghosts included.

    Parameters
    ----------
    cutoff : float, Å
        The largest distance of neighbours.
    """

    def __init__(self, cutoff: float) -> None:
        self.radius = cutoff + SKIN
        self.start: NDArray[np.int64] = np.zeros(1, np.int64)
        self.candidate: NDArray[np.int32] = np.empty(0, np.int32)
        self._tags: Any = None
        self._n_local = -1
        self._positions: Any = None

    def renumbered(self, tags: NDArray[Any], n_local: int) -> bool:
        """Return whether atoms have other places than when `renumber` was called."""
        return self._n_local != n_local or not np.array_equal(self._tags, tags)

    def renumber(self, tags: NDArray[Any], n_local: int) -> None:
        """Remember the places of atoms; candidates are then found anew."""
        self._tags, self._n_local, self._positions = tags.copy(), n_local, None

    def update(self, positions: NDArray[np.float64]) -> bool:
        """Find candidates anew if an atom has moved by half the skin, and return whether so.

        Raises
        ------
        ImageError
            A position is not finite.
        """
        if self._positions is not None:
            moved = positions - self._positions
            if np.einsum("ij,ij->i", moved, moved).max(initial=0.0) <= (SKIN / 2.0) ** 2:
                return False
        wrong = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        if len(wrong):
            raise ImageError(
                f"the position of the atom with ID {self._tags[wrong[0]]} is not finite: "
                "the run has blown up; look at its last steps, and take a shorter timestep or "
                "a potential that was trained on such structures"
            )
        self.start, self.candidate = candidates_among(positions, self._n_local, self.radius)
        self._positions = positions.copy()
        return True
