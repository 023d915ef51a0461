"""`Committee`: several calculators as one, whose disagreement tells where not to trust them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.calculator import Calculator, all_changes

from ampmpi.calculator import Amp
from ampmpi.errors import InputError, ModelError
from ampmpi.evaluation import atom_spreads
from ampmpi.members import calculator_files
from ampmpi.model import amp_file, ensemble

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.descriptor import Descriptor


def ensemble_members(file: str | os.PathLike[str], **keywords: Any) -> list[Amp]:
    """Load the calculators of an .ensemble file, with keywords of `Amp` such as `label`.

    Raises
    ------
    ModelError
        It is no such file, or the parameters of a calculator are wrong.
    """
    members = []
    for number, text in enumerate(ensemble.read_texts(file)):
        try:
            members.append(Amp.load(io.StringIO(text), **keywords))
        except ModelError as error:
            raise ModelError(f"{os.fspath(file)}, calculator {number}: {error}") from error
    return members


class Committee(Calculator):
    """The mean of several potentials, and how far they disagree, as an ASE calculator.

    Beside ASE's properties, `results` holds ``energy_spread`` (float, eV), the standard
    deviation of the members' energies, and with the forces ``forces_spread`` ((n_atoms,)
    float array, eV/Å): for each atom the root mean square deviation of a force component
    from the mean, over members and components.

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

    @classmethod
    def load(
        cls,
        files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        atoms: Atoms | None = None,
        *,
        descriptor: Descriptor | None = None,
    ) -> Committee:
        """Load a committee.

        Parameters
        ----------
        files : str or iterable of str
            Names of .amp files, patterns such as ``cupt-committee-*.amp``, the label of a
            training, or .ensemble files, which Amp's BootStrap makes, too.
        atoms : ase.Atoms, optional
            Atoms to attach the calculator to.
        descriptor : Descriptor, optional
            The descriptor that the files are of, where it is none of this package's.

        Raises
        ------
        InputError
            A name stands for no file.
        ModelError
            A file is no .amp or .ensemble file, or its parameters are wrong.
        """
        given = [files] if isinstance(files, str | os.PathLike) else list(files)
        members: list[Amp] = []
        for one in (os.fspath(name) for name in given):
            if one.endswith(ensemble.SUFFIX):
                members += ensemble_members(one, descriptor=descriptor)
                continue
            found = calculator_files(one)
            if not found:
                raise InputError(f"{one}: there is no such .amp file, and no training of this name")
            members += [Amp.load(Path(name), descriptor=descriptor) for name in found]
        return cls(members, atoms)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Save the members in one .ensemble file, which Amp's BootStrap and `load` read.

        Raises
        ------
        InputError
            The name does not end in ``.ensemble``.
        ModelError
            A member is not trained.
        """
        if not os.fspath(file).endswith(ensemble.SUFFIX):
            raise InputError(f"{os.fspath(file)}: give a name that ends in {ensemble.SUFFIX}")
        for member in self.members:
            _ = member.model.vector  # an untrained one has none
        texts = [amp_file.text_of(one.descriptor.parameters, one.model.parameters)
                 for one in self.members]  # fmt: skip
        ensemble.write_texts(file, texts)

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
        for member in self.members:
            member.calculate(self.atoms, properties, system_changes)
            parts.append(member.results)
        gathered = {name: np.array([part[name] for part in parts]) for name in parts[0]}
        self.results = {name: values.mean(axis=0) for name, values in gathered.items()}
        for name in ("energy", "free_energy"):
            self.results[name] = float(self.results[name])
        self.results["energy_spread"] = float(gathered["energy"].std())
        if "forces" in gathered:
            self.results["forces_spread"] = atom_spreads(gathered["forces"])
