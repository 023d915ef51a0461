"""`Amp`: the ASE calculator, with Amp's keywords, files and training."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import numpy as np
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from ampmpi.descriptor import (
    AtomCentered,
    Descriptor,
    fingerprint_once,
    from_parameters,
    has_derivatives,
    in_words,
    require_descriptor,
    virial_by_differences,
)
from ampmpi.errors import InputError, ModelError
from ampmpi.model import NeuralNetwork, amp_file
from ampmpi.on_atoms import Member, ThreadSafeCalculator
from ampmpi.parallel.failure import share
from ampmpi.parallel.log import LabelLog
from ampmpi.parallel.wishes import note_cores, note_envcommand, note_parallel

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

    from ampmpi.entries import Fingerprint
    from ampmpi.training import Settings, TrainingResult


class Amp(ThreadSafeCalculator):
    """Machine-learning potential: a descriptor and a model, as an ASE calculator.

    Predicting needs no database and writes no file. `train` works alone and on all ranks
    of a script that ``mpirun`` started; in a notebook it shows a bar.

    Parameters
    ----------
    descriptor : Descriptor
        Turns images into fingerprints: `Gaussian`, or one of your own.
    model : NeuralNetwork
        Turns fingerprints into energies.
    label : str or None
        Prefix of the training's files; None is ``amp`` without a log.
    dblabel : str, optional
        Prefix of the databases, where several trainings share them. That of the
        descriptor comes first.
    cores : int or dict, optional
        Taken for Amp's sake, with a line that says where ranks come from: ``mpirun``.
    envcommand : str, optional
        Taken, and not run: the environment is the job script's.
    logging : bool
        Whether a training writes LABEL-log.txt.
    atoms : ase.Atoms, optional
        Atoms to attach the calculator to.
    threads : int
        How many threads share the work of a calculation; the results do not depend on it.
        Under MPI with several ranks it is 1.

    Raises
    ------
    InputError
        A keyword has a value that is not supported; the message names it.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012

    def __init__(
        self,
        descriptor: Descriptor,
        model: NeuralNetwork,
        label: str | None = "amp",
        dblabel: str | None = None,
        cores: int | Mapping[str, int] | None = None,
        envcommand: str | None = None,
        logging: bool = True,
        atoms: Atoms | None = None,
        threads: int = 1,
    ) -> None:
        self.cores = cores
        note_envcommand(envcommand)
        ThreadSafeCalculator.__init__(self, threads, label=label, atoms=atoms)
        self.descriptor = descriptor
        self.model = model
        self.logging = bool(logging)
        self.dblabel = dblabel

    def __repr__(self) -> str:
        return f"Amp({self.descriptor!r}, {self.model!r}, label={self.label!r})"

    @property
    def dblabel(self) -> str | None:
        """Prefix of databases that trainings share; the descriptor's own comes first, as in Amp."""
        own: str | None = getattr(self.descriptor, "dblabel", None)
        return self._dblabel if own is None else own

    @dblabel.setter
    def dblabel(self, dblabel: str | None) -> None:
        self._dblabel = dblabel

    @property
    def _log(self) -> LabelLog:
        """What Amp's scripts give as `log` to its descriptor and model: LABEL-log.txt."""
        return LabelLog(self.label if self.logging else None)

    @property
    def cores(self) -> int | Mapping[str, int] | None:
        """What was given; the ranks come from ``mpirun``."""
        return self._cores

    @cores.setter
    def cores(self, cores: int | Mapping[str, int] | None) -> None:
        note_cores(cores, "Amp: cores")
        self._cores = cores

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor; setting it clears the results."""
        return self._descriptor

    @descriptor.setter
    def descriptor(self, descriptor: Descriptor) -> None:
        self._descriptor = require_descriptor(descriptor)
        if hasattr(descriptor, "parent"):
            descriptor.parent = self
        self._forget()

    @property
    def model(self) -> NeuralNetwork:
        """The model; setting it clears the results."""
        return self._model

    @model.setter
    def model(self, model: NeuralNetwork) -> None:
        _require("model", model, "atomic_energies", "NeuralNetwork(...)")
        self._model = model
        if hasattr(model, "parent"):
            model.parent = self
        self._forget()

    @property
    def shares_neighbors(self) -> bool:
        """Whether descriptor and model are this package's, which need only a neighbour list."""
        return (
            type(self.model).atomic_energies is NeuralNetwork.atomic_energies
            and type(self.descriptor).fingerprint is AtomCentered.fingerprint
        )

    @classmethod
    def load(
        cls,
        file: str | os.PathLike[str] | TextIO,
        Descriptor: Callable[..., Any] | None = None,
        Model: Callable[..., Any] | None = None,
        *,
        descriptor: Descriptor | None = None,
        **kwargs: Any,
    ) -> Amp:
        """Load a calculator from a .amp file that Amp or ampmpi saved.

        Parameters
        ----------
        file : path or text file
            The file. It is parsed, not run.
        Descriptor, Model : class, optional
            Classes of your own, called with the parameters in the file.
        descriptor : Descriptor, optional
            The descriptor that the file is of, where it is none of this package's. The file
            only names it.
        **kwargs
            Keywords of `Amp`, such as `label`.

        Raises
        ------
        ModelError
            The file is no .amp file, its parameters are wrong, or those of another descriptor.
        """
        described, model = amp_file.read(file)
        try:
            if Descriptor is None:
                made = from_parameters(described, descriptor)
            elif descriptor is not None:
                raise InputError("Descriptor and descriptor are given; leave one of them out")
            else:
                made = Descriptor(**_without_importname(described))
            network = (
                NeuralNetwork.from_parameters(model)
                if Model is None
                else Model(**_without_importname(model))
            )
        except (InputError, ModelError) as error:
            raise ModelError(f"{amp_file.name_of(file)}: {error}") from error
        return cls(descriptor=made, model=network, **kwargs)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
        described: dict[str, Fingerprint] | None = None,
    ) -> None:
        """Calculate energies and, where one of them is asked for, forces and stress.

        Neighbours are searched anew when an atom has moved by half of a skin since the last time.
        Calculators that are given the same `described` share the fingerprints of these atoms,
        by the digest of their descriptors.

        Raises
        ------
        ImageError
            The atoms cannot be described: an element is missing, or two atoms overlap.
        ModelError
            The model is not trained, or lacks an element.
        InputError
            There are no atoms.
        """
        wanted = set(properties or ["energy"])
        Calculator.calculate(  # type: ignore[no-untyped-call]
            self, atoms, properties, system_changes
        )
        if self.atoms is None:
            raise InputError("there are no atoms to calculate: give some, or attach them")
        atoms = cast("Atoms", self.atoms)  # this thread's
        check_stress(wanted, atoms)
        if wanted & {"forces", "stress"} and not has_derivatives(self.descriptor):
            raise PropertyNotImplementedError(
                f"forces and stress need derivatives, which the descriptor "
                f"{in_words(self.descriptor)} does not have: ask for energies only"
            )
        with_forces = bool(wanted & {"forces", "stress"})
        outcome = None
        if described is None and self.shares_neighbors:
            outcome = self._kept.on_atoms.evaluate(
                self._members(), atoms, with_forces, self.threads
            )
        if outcome is not None:
            energies, forces = outcome.energies[0], outcome.forces
            virial: NDArray[np.float64] | None = outcome.virial
        else:
            descriptor = self.descriptor.resolve(self.model.network.elements)
            fingerprint = fingerprint_once(descriptor, atoms, described)
            energies, dE_dG = self.model.atomic_energies(fingerprint)
            if with_forces:
                forces, virial = descriptor.contract(atoms, dE_dG)
                if virial is None and "stress" in wanted:
                    virial = virial_by_differences(descriptor, atoms, dE_dG)
        energy = float(energies.sum())
        results = {"energy": energy, "free_energy": energy, "energies": energies}
        if with_forces:
            results["forces"] = forces
            if virial is not None and atoms.cell.rank == 3:
                results["stress"] = stress_of(virial, atoms)
        self._keep(results)

    def _members(self) -> list[Member]:
        return [(self.descriptor, self.model)]

    def calculate_numerical_forces(self, atoms: Atoms, d: float = 0.001) -> NDArray[np.float64]:
        """Return forces by central differences of the energy, (n_atoms, 3) float array, eV/Å.

        `d` is the step, Å. ASE's calculators had this method until ASE 3.23.
        """
        forces = np.empty((len(atoms), 3))
        for atom, direction in np.ndindex(*forces.shape):
            energies = []
            for step in (d, -d):
                moved = atoms.copy()  # type: ignore[no-untyped-call]
                moved.positions[atom, direction] += step
                energies.append(self.get_potential_energy(moved))  # type: ignore[no-untyped-call]
            forces[atom, direction] = (energies[1] - energies[0]) / (2.0 * d)
        return forces

    def train(
        self, images: Any, overwrite: bool = False, comm: Any = None, **options: Any
    ) -> TrainingResult:
        """Fit the model to images, alone or on all ranks of this script.

        Saves LABEL.amp, or LABEL-untrained-parameters.amp when the optimiser stalled before
        the criteria or `maxiter` were reached. The same call goes on where an interrupted one
        stopped, and returns the result of a finished one. What another training has left under
        the label is refused at the start, unless `overwrite` is set. A model without a seed
        that is trained again with `overwrite` starts anew.

        Parameters
        ----------
        images : list of ase.Atoms, or str
            Images with energies and, where they are trained, forces; or files of them.
        overwrite : bool
            Replace LABEL.amp, and the checkpoint of another training, when they are there.
        comm : communicator, optional
            The ranks; all of the job by default.
        **options
            Further settings of `ampmpi.training.Settings`: `validation`,
            `validation_fraction`, `seed`, `schedule`, `memory`, `restart`, `compress`,
            `packs`, `pack_size` and `pack_seconds`; `widen` for a model that is trained
            further; `energy_key`, `forces_key`,
            `stress_key`, `units`, `format` and `skip_unusable` for images whose labels have
            other names, are in other units, or are not complete; `weight_key`,
            `atom_weight_key` and `type_weights` for weights.

        Returns
        -------
        TrainingResult
            How it ended; the same on every rank.

        Raises
        ------
        TrainingConvergenceError
            The optimiser stalled; every rank raises it, and the parameters are saved.
        InputError
            An option is wrong, or something is there that is not to be replaced unasked.
        Unfinished
            A signal asked to stop; the same call goes on.
        KeyboardInterrupt
            So did an interrupt from the keyboard, without ``mpirun``.
        """
        from ampmpi.fingerprinting.by_hand import show
        from ampmpi.parallel.comm import as_communicator
        from ampmpi.training import Settings, train_one

        settings = _settings(Settings, self.model.checkpoints, options)
        settings = replace(
            settings, overwrite=overwrite, logging=self.logging and self.label is not None
        )
        note_parallel(self.model.lossfunction.parallel)
        ranks, label = as_communicator(comm), self.label or "amp"
        result = train_one(
            images,
            self.descriptor,
            self.model,
            label=label,
            dblabel=self.dblabel,
            settings=settings,
            comm=ranks,
        )
        if hasattr(self.descriptor, "complete_as"):
            self.descriptor.complete_as(result.descriptor)
            show(
                self.descriptor,
                self.dblabel or label,
                ranks.rank,
                derivatives=self.model.forcetraining,
            )
            self._forget()
        else:
            self.descriptor = result.descriptor
        return result

    def save(self, filename: str | os.PathLike[str], overwrite: bool = False) -> str:
        """Save the calculator in a .amp file that `load` and Amp read.

        As in Amp an existing file stays, and the calculator goes to a new file in the
        temporary folder, unless `overwrite` is set: then the old file goes there. Standard
        error has a line that says where.

        Returns
        -------
        str
            Name of the file that was written.

        Raises
        ------
        InputError
            The name is that of a folder, or in a folder that is not there.
        """
        target = Path(filename)
        if target.is_dir() or not target.parent.is_dir():
            raise InputError(f"{target} cannot be written: give a file in a folder that is there")
        remark = None
        if target.exists():
            with tempfile.NamedTemporaryFile(suffix=".amp", delete=False) as other:
                spare = other.name
            if overwrite:
                shutil.copyfile(target, spare)
                remark = f"the {target} that was there is kept as {spare}"
            else:
                remark = (
                    f"{target} is there already: the calculator is saved as {spare}; give "
                    "overwrite=True to replace it"
                )
                target = Path(spare)
        amp_file.write(target, self.descriptor.parameters, self.model.parameters)
        if remark is not None:
            sys.stderr.write(f"ampmpi: {remark}\n")
        return str(target)


def check_stress(wanted: set[str], atoms: Atoms) -> None:
    """Raise ASE's error where a stress is wanted of atoms that have no volume."""
    if "stress" in wanted and atoms.cell.rank < 3:
        raise PropertyNotImplementedError("stress needs a cell with three vectors")


def stress_of(virial: NDArray[np.float64], atoms: Atoms) -> NDArray[np.float64]:
    """Return the stress in Voigt's order, (6,) float array, eV/Å³, of a virial."""
    stress: NDArray[np.float64] = virial.flat[[0, 4, 8, 5, 2, 1]] / abs(np.linalg.det(atoms.cell))
    return stress


def _settings(kind: type[Settings], every: int | None, options: Mapping[str, Any]) -> Settings:
    """Make a training's settings of its options and of Amp's `checkpoints`.

    Negative `checkpoints` keep each; None or 0 leaves those that a restart needs.
    """
    known = {field.name for field in fields(kind)} - {"overwrite", "groups", "logging", "halving"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise share(
            InputError(f"train: unknown option {unknown[0]!r}; it takes {', '.join(sorted(known))}")
        )
    given = {name: value for name, value in options.items() if value is not None}
    settings = kind(**given)
    if not every:
        return settings
    schedule = replace(settings.schedule, checkpoint_every=abs(every), keep_checkpoints=every < 0)
    return replace(settings, schedule=schedule)


def _require(name: str, given: Any, method: str, example: str) -> None:
    """Refuse what cannot be a calculator's descriptor or model; classes of one's own can."""
    if isinstance(given, type) or not hasattr(given, method):
        raise InputError(f"Amp: {name} is {given!r}; give an object such as {example}")


def _without_importname(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if key != "importname"}
