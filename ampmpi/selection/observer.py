"""An observer for the dynamics of ASE that watches how far a committee disagrees."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ampmpi.committee import Committee
from ampmpi.errors import InputError, SpreadError
from ampmpi.parallel.comm import world
from ampmpi.selection.watch import SpreadWatch
from ampmpi.selection.writing import ImageAppender, with_spreads

if TYPE_CHECKING:
    from ase import Atoms


class SpreadObserver(SpreadWatch):
    """Watches a dynamics of ASE: writes images of which a committee is unsure, and stops it.

    ::

        watch = SpreadObserver(atoms, limit=0.2, output="unsure.extxyz", stop_above=2.0)
        dynamics.attach(watch, interval=10)

    An image is written as it is, with its velocities, the array ``forces_spread`` (in the
    `info` of a .traj, which has no place for it), and ``largest_spread`` and ``look`` in its
    `info`. It has no energy and no forces, so that nobody trains on the committee's own.

    Parameters
    ----------
    atoms : ase.Atoms
        The atoms that move.
    limit : float
        Above this spread of an atom's force, eV/Å, an image is unsure. `spread_quantile`
        measures what is usual.
    output : str, optional
        File for the unsure images, extended XYZ or .traj by its name. They are appended to
        what is there. Of the ranks of a script, the first one writes.
    stop_above : float, optional
        Above this spread, eV/Å, the dynamics ends with `SpreadError`.
    most : int, optional
        After so many unsure images, it does, too.
    committee : Committee, optional
        What is asked; by default the calculator of the atoms. With it, one network can drive
        the dynamics, and the committee be asked at every look only.

    Raises
    ------
    InputError
        A limit is wrong, the committee has one member, or the calculator is none.
    ImageFileError
        The output is there, and no image can follow what is in it.
    """

    def __init__(
        self,
        atoms: Atoms,
        limit: float,
        output: str | os.PathLike[str] | None = None,
        *,
        stop_above: float | None = None,
        most: int | None = None,
        committee: Committee | None = None,
    ) -> None:
        super().__init__(limit, stop_above=stop_above, most=most)
        self.atoms, self.committee = atoms, committee
        self._asked()
        first = world().rank == 0
        self._output = ImageAppender(output) if output is not None and first else None

    def __call__(self) -> None:
        """Look at the atoms as they are.

        Raises
        ------
        SpreadError
            The dynamics is to be stopped; a step is complete then, so that it can go on.
        FileError
            The image cannot be written.
        """
        spreads = self._spreads()
        seen = self.look(spreads)
        if seen.unsure and self._output is not None and np.isfinite(seen.spread):
            self._output.append(with_spreads(self.atoms, spreads, look=seen.number))
        if seen.reason:
            raise SpreadError(f"the dynamics was stopped at look {seen.number}: {seen.reason}")

    def _spreads(self) -> NDArray[np.float64]:
        """Return the spread of each atom's force, (n_atoms,) float array, eV/Å."""
        committee = self._asked()
        if self.committee is None:
            self.atoms.get_forces(apply_constraint=False)  # type: ignore[no-untyped-call]
        else:
            committee.calculate(self.atoms, ["energy", "forces"])
        spreads: NDArray[np.float64] = committee.results["forces_spread"]
        return spreads

    def _asked(self) -> Committee:
        """Return the committee that is asked; `InputError` where there is none."""
        found = self.atoms.calc if self.committee is None else self.committee
        if not isinstance(found, Committee):
            raise InputError(
                f"the calculator of the atoms is {found!r}, which is no committee: attach "
                "Committee.load(files) to them, or give one as committee"
            )
        if len(found.members) < 2:
            raise InputError("the committee has one member, and no spread: give at least two")
        return found
