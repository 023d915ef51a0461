"""Whether a committee's forces disagree too much: the decision, apart from any dynamics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ampmpi.errors import InputError
from ampmpi.text import amount, figures


@dataclass(frozen=True)
class Look:
    """What was seen of one step.

    Attributes
    ----------
    number : int
        Number of the look, from 0.
    spread : float
        The largest spread of an atom's force, eV/Å.
    atom : int
        The atom that has it.
    unsure : bool
        Whether it is above the limit: the image is worth computing.
    reason : str
        Why the dynamics is to be stopped; empty where it may go on.
    """

    number: int
    spread: float
    atom: int
    unsure: bool
    reason: str = ""


class SpreadWatch:
    """Decides by the spread of a committee's forces what is to be done, and counts.

    It knows no dynamics: what drives one gives it the spreads, writes the image where the
    answer is `unsure`, and stops where the answer has a `reason`.

    Parameters
    ----------
    limit : float
        Above this spread of an atom's force, eV/Å, an image is unsure.
    stop_above : float, optional
        Above this spread, eV/Å, the dynamics is to be stopped.
    most : int, optional
        After so many unsure images, it is to be stopped, too.

    Attributes
    ----------
    n_looks, n_unsure : int
        Looks, and those of them at which the forces were unsure.
    largest : float
        The largest spread so far, eV/Å; nan before the first look.
    largest_at : int
        The look that saw it.
    """

    def __init__(
        self, limit: float, *, stop_above: float | None = None, most: int | None = None
    ) -> None:
        for name, value in (("limit", limit), ("stop_above", stop_above)):
            if value is not None and not value > 0.0:
                raise InputError(f"{name} is {value!r}: give a spread of the forces above 0, eV/Å")
        if stop_above is not None and stop_above < limit:
            raise InputError(
                f"stop_above is {stop_above:g}, below the limit of {limit:g}: give one that is "
                "not below it"
            )
        if most is not None and most < 1:
            raise InputError(f"most is {most!r}: give a number of images, at least 1")
        self.limit, self.stop_above, self.most = float(limit), stop_above, most
        self.n_looks = self.n_unsure = 0
        self.largest, self.largest_at = float("nan"), -1

    def look(self, spreads: ArrayLike) -> Look:
        """Look at one step.

        Parameters
        ----------
        spreads : (n_atoms,) float array, eV/Å
            The spread of each atom's force, the ``forces_spread`` of a `Committee`. What is
            not finite counts as infinite.
        """
        values = np.asarray(spreads, dtype=np.float64)
        values = np.where(np.isfinite(values), values, np.inf)
        atom = int(values.argmax()) if len(values) else -1
        spread = float(values[atom]) if len(values) else 0.0
        number, unsure = self.n_looks, spread > self.limit
        self.n_looks += 1
        self.n_unsure += unsure
        if not spread <= self.largest:
            self.largest, self.largest_at = spread, number
        reason = ""
        if not np.isfinite(spread):
            reason = f"the forces on atom {atom} are not finite"
        elif self.stop_above is not None and spread > self.stop_above:
            reason = (
                f"the committee's forces on atom {atom} disagree by {figures(spread, 3)} eV/Å, "
                f"more than stop_above, {figures(self.stop_above, 3)}"
            )
        elif unsure and self.most is not None and self.n_unsure >= self.most:
            reason = (
                f"{amount(self.n_unsure, 'image')}, as many as asked for by most, had forces that "
                f"disagree by more than {figures(self.limit, 3)} eV/Å"
            )
        return Look(number, spread, atom, unsure, reason)

    def summary(self) -> str:
        """Say in one line how often the forces were looked at and unsure."""
        if not self.n_looks:
            return "the forces were not looked at yet"
        return (
            f"{amount(self.n_looks, 'look')}: the forces disagreed by more than "
            f"{figures(self.limit, 3)} eV/Å at {self.n_unsure}, at most by "
            f"{figures(self.largest, 3)} (look {self.largest_at})"
        )
