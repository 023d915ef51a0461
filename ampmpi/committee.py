"""`Committee`: several calculators as one, whose disagreement tells where not to trust them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.calculator import Calculator, all_changes

from ampmpi.calculator import Amp
from ampmpi.errors import InputError
from ampmpi.evaluation import atom_spreads, spread_of
from ampmpi.members import calculator_files

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.entries import Fingerprint


class Committee(Calculator):
    """The mean of several potentials, and how far they disagree, as an ASE calculator.

    Beside ASE's properties, `results` holds ``energy_spread`` (float, eV), the standard
    deviation of the members' energies, and with the forces ``forces_spread`` ((n_atoms,)
    float array, eV/Å): for each atom the root mean square deviation of a force component
    from the mean, over members and components. A lone member has no spread: both are nan.

    Parameters
    ----------
    members : sequence of Amp
        The potentials.
    atoms : ase.Atoms, optional
        Atoms to attach the calculator to.

    Raises
    ------
    InputError
        There is no member, or one is no `Amp`.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012

    def __init__(self, members: Sequence[Amp], atoms: Atoms | None = None) -> None:
        if not members or not all(isinstance(one, Amp) for one in members):
            raise InputError("Committee: give a list of Amp, or use Committee.load(files)")
        Calculator.__init__(self, atoms=atoms)  # type: ignore[no-untyped-call]
        self.members = tuple(members)

    def __repr__(self) -> str:
        alike = Counter(map(repr, self.members))
        return f"Committee({', '.join(f'{count} x {one}' for one, count in alike.items())})"

    @classmethod
    def load(
        cls,
        files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        atoms: Atoms | None = None,
    ) -> Committee:
        """Load a committee.

        Parameters
        ----------
        files : str or iterable of str
            Names of .amp files, patterns such as ``cupt-committee-*.amp``, or the label of a
            training.
        atoms : ase.Atoms, optional
            Atoms to attach the calculator to.

        Raises
        ------
        InputError
            A name stands for no file.
        ModelError
            A file is no .amp file, or its parameters are wrong.
        """
        given = [files] if isinstance(files, str | os.PathLike) else list(files)
        names: list[str] = []
        for one in (os.fspath(name) for name in given):
            found = calculator_files(one)
            if not found:
                raise InputError(f"{one}: there is no such .amp file, and no training of this name")
            names += found
        return cls([Amp.load(Path(name)) for name in names], atoms)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Calculate means and spreads of energies and, where asked for, forces and stress.

        Raises
        ------
        ImageError, ModelError, InputError
            As `Amp.calculate`.
        """
        Calculator.calculate(  # type: ignore[no-untyped-call]
            self, atoms, properties, system_changes
        )
        parts: list[dict[str, Any]] = []
        described: dict[str, Fingerprint] = {}
        for member in self.members:
            member.calculate(self.atoms, properties, system_changes, described)
            parts.append(member.results)
        gathered = {name: np.array([part[name] for part in parts]) for name in parts[0]}
        self.results = {name: values.mean(axis=0) for name, values in gathered.items()}
        for name in ("energy", "free_energy"):
            self.results[name] = float(self.results[name])
        self.results["energy_spread"] = spread_of(gathered["energy"])
        if "forces" in gathered:
            self.results["forces_spread"] = atom_spreads(gathered["forces"])
