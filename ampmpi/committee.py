"""`Committee`: several calculators as one, whose disagreement tells where not to trust them."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from numpy.typing import NDArray

from ampmpi.calculator import Amp, check_stress, stress_of
from ampmpi.errors import InputError, ModelError
from ampmpi.evaluation import atom_spreads, spread_of
from ampmpi.members import calculator_files
from ampmpi.model import amp_file, ensemble
from ampmpi.on_atoms import Member, Outcome, ThreadSafeCalculator

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.descriptor import Descriptor
    from ampmpi.entries import Fingerprint


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


class Committee(ThreadSafeCalculator):
    """The mean of several potentials, and how far they disagree, as an ASE calculator.

    Beside ASE's properties, `results` holds ``energy_spread`` (float, eV), the standard
    deviation of the members' energies, ``energies_spread`` ((n_atoms,) float array, eV), that
    of their atomic energies, and with the forces ``forces_spread`` ((n_atoms,) float array,
    eV/Å): for each atom the root mean square deviation of a force component from the mean, over
    members and components. A lone member has no spread: all are nan.

    Members with the same descriptor share neighbours and fingerprints, and their mean forces
    cost as much as those of one member. ``forces_spread`` needs the forces of each: it is
    computed when it is first looked up, ``committee.results["forces_spread"]``, or asked for,
    ``committee.get_property("forces_spread", atoms)``. In molecular dynamics look at it every
    ten steps or so; ``energies_spread`` is there at each.

    Parameters
    ----------
    members : sequence of Amp
        The potentials.
    atoms : ase.Atoms, optional
        Atoms to attach the calculator to.
    threads : int
        As `Amp` takes it.

    Raises
    ------
    InputError
        There is no member, or one is no `Amp`.
    """

    implemented_properties = [  # noqa: RUF012
        "energy", "free_energy", "energies", "forces", "stress",
        "energy_spread", "energies_spread", "forces_spread",
    ]  # fmt: skip

    def __init__(
        self, members: Sequence[Amp], atoms: Atoms | None = None, threads: int = 1
    ) -> None:
        if not members or not all(isinstance(one, Amp) for one in members):
            raise InputError("Committee: give a list of Amp, or use Committee.load(files)")
        ThreadSafeCalculator.__init__(self, threads, atoms=atoms)
        self.members = tuple(members)

    def __repr__(self) -> str:
        alike = Counter(map(repr, self.members))
        return f"Committee({', '.join(f'{count} x {one}' for one, count in alike.items())})"

    @classmethod
    def load(
        cls,
        files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        atoms: Atoms | None = None,
        *,
        descriptor: Descriptor | None = None,
        threads: int = 1,
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
        threads : int
            As `Amp` takes it.

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
        return cls(members, atoms, threads)

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
        wanted = set(properties or ["energy"])
        Calculator.calculate(  # type: ignore[no-untyped-call]
            self, atoms, properties, system_changes
        )
        if self.atoms is None:
            raise InputError("there are no atoms to calculate: give some, or attach them")
        check_stress(wanted, self.atoms)
        if wanted & {"forces_spread"}:
            wanted.add("forces")
        outcome = None
        if all(one.shares_neighbors for one in self.members):
            with_forces = bool(wanted & {"forces", "stress"})
            outcome = self._kept.on_atoms.evaluate(
                self._members(), self.atoms, with_forces, self.threads
            )
        if outcome is not None:
            self._keep(_results_of(outcome, self.atoms))
        else:
            self._calculate_each(sorted(wanted & set(Amp.implemented_properties)))
        if "forces_spread" in wanted:
            _ = self.results["forces_spread"]  # computed and kept, for ASE to find

    def _calculate_each(self, properties: list[str]) -> None:
        """Calculate members that do not share neighbours one after the other."""
        parts: list[dict[str, Any]] = []
        described: dict[str, Fingerprint] = {}
        for member in self.members:
            member.calculate(self.atoms, properties or ["energy"], described=described)
            parts.append(member.results)
        gathered = {name: np.array([part[name] for part in parts]) for name in parts[0]}
        results = {name: values.mean(axis=0) for name, values in gathered.items()}
        for name in ("energy", "free_energy"):
            results[name] = float(results[name])
        results["energy_spread"] = spread_of(gathered["energy"])
        results["energies_spread"] = _spreads_of(gathered["energies"])
        if "forces" in gathered:
            results["forces_spread"] = atom_spreads(gathered["forces"])
        self._keep(results)

    def _members(self) -> list[Member]:
        return [(one.descriptor, one.model) for one in self.members]


class _Results(dict[str, Any]):
    """Results whose ``forces_spread`` is computed when it is first looked up."""

    def __init__(self, results: dict[str, Any], outcome: Outcome | None) -> None:
        super().__init__(results)
        self._outcome = outcome

    def __missing__(self, name: str) -> Any:
        if name != "forces_spread" or self._outcome is None or "forces" not in self:
            raise KeyError(name)
        self[name] = atom_spreads(self._outcome.member_forces())
        return self[name]

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _results_of(outcome: Outcome, atoms: Any) -> _Results:
    members = outcome.energies.sum(axis=1)
    energy = float(members.mean())
    results = {
        "energy": energy,
        "free_energy": energy,
        "energies": outcome.energies.mean(axis=0),
        "energy_spread": spread_of(members),
        "energies_spread": _spreads_of(outcome.energies),
    }
    if len(outcome.forces):
        results["forces"] = outcome.forces
        if atoms.cell.rank == 3:
            results["stress"] = stress_of(outcome.virial, atoms)
    return _Results(results, outcome)


def _spreads_of(energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard deviation of atomic energies; nan of one member."""
    if len(energies) < 2:
        return np.full(energies.shape[1], np.nan)
    spreads: NDArray[np.float64] = energies.std(axis=0)
    return spreads
