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

from ampmpi.descriptor import Gaussian, fingerprint_once
from ampmpi.errors import InputError, ModelError, Unfinished
from ampmpi.model import NeuralNetwork, amp_file
from ampmpi.parallel.failure import abort_on_error, install_excepthook, share

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.entries import Fingerprint
    from ampmpi.training import Settings, TrainingResult

DESCRIPTOR_NAME = ".descriptor.gaussian.Gaussian"


class Amp(Calculator):
    """Machine-learning potential: a descriptor and a model, as an ASE calculator.

    Predicting needs no database and writes no file. `train` works alone and on all ranks
    of a script that ``mpirun`` started; in a notebook it shows a bar.

    Parameters
    ----------
    descriptor : Gaussian
        Turns images into fingerprints.
    model : NeuralNetwork
        Turns fingerprints into energies.
    label : str or None
        Prefix of the training's files; None is ``amp`` without a log.
    dblabel : str, optional
        Prefix of the databases, where several trainings share them. That of the
        descriptor comes first.
    cores : int, optional
        Ranks come from ``mpirun``; a number other than 1 is refused.
    envcommand : None
        Refused: the environment is the job script's.
    logging : bool
        Whether a training writes LABEL-log.txt.
    atoms : ase.Atoms, optional
        Atoms to attach the calculator to.

    Raises
    ------
    InputError
        A keyword has a value that is not supported; the message names it.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012

    def __init__(
        self,
        descriptor: Gaussian,
        model: NeuralNetwork,
        label: str | None = "amp",
        dblabel: str | None = None,
        cores: int | None = None,
        envcommand: None = None,
        logging: bool = True,
        atoms: Atoms | None = None,
    ) -> None:
        self.cores = cores
        if envcommand is not None:
            raise InputError(
                "Amp: envcommand is not taken here; set the environment in the job script"
            )
        Calculator.__init__(self, label=label, atoms=atoms)  # type: ignore[no-untyped-call]
        self.descriptor = descriptor
        self.model = model
        self.logging = bool(logging)
        self.dblabel = dblabel

    def __repr__(self) -> str:
        return f"Amp({self.descriptor!r}, {self.model!r}, label={self.label!r})"

    @property
    def dblabel(self) -> str | None:
        """Prefix of databases that trainings share; the descriptor's own comes first, as in Amp."""
        return self._dblabel if self.descriptor.dblabel is None else self.descriptor.dblabel

    @dblabel.setter
    def dblabel(self, dblabel: str | None) -> None:
        self._dblabel = dblabel

    @property
    def cores(self) -> int:
        """Always 1: the ranks come from ``mpirun``; setting another number is refused."""
        return 1

    @cores.setter
    def cores(self, cores: int | None) -> None:
        if cores not in (None, 1):
            raise InputError(
                f"Amp: cores={cores!r} is not taken here; leave it out and start the script with "
                "mpirun -n and the number of ranks"
            )

    @property
    def descriptor(self) -> Gaussian:
        """The descriptor; setting it clears the results."""
        return self._descriptor

    @descriptor.setter
    def descriptor(self, descriptor: Gaussian) -> None:
        _require("descriptor", descriptor, "fingerprint", "Gaussian(...)")
        self._descriptor = descriptor
        self.reset()  # type: ignore[no-untyped-call]

    @property
    def model(self) -> NeuralNetwork:
        """The model; setting it clears the results."""
        return self._model

    @model.setter
    def model(self, model: NeuralNetwork) -> None:
        _require("model", model, "atomic_energies", "NeuralNetwork(...)")
        self._model = model
        self.reset()  # type: ignore[no-untyped-call]

    @classmethod
    def load(
        cls,
        file: str | os.PathLike[str] | TextIO,
        Descriptor: Callable[..., Any] | None = None,
        Model: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> Amp:
        """Load a calculator from a .amp file that Amp or ampmpi saved.

        Parameters
        ----------
        file : path or text file
            The file. It is parsed, not run.
        Descriptor, Model : class, optional
            Classes of your own, called with the parameters in the file.
        **kwargs
            Keywords of `Amp`, such as `label`.

        Raises
        ------
        ModelError
            The file is no .amp file, or its parameters are wrong.
        """
        descriptor, model = amp_file.read(file)
        try:
            if Descriptor is None:
                kind = descriptor.get("importname", DESCRIPTOR_NAME)
                if kind != DESCRIPTOR_NAME:
                    raise InputError(f"the descriptor is a {kind}; only Gaussian is supported")
                made = Gaussian.from_parameters(descriptor)
            else:
                made = Descriptor(**_without_importname(descriptor))
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
        atoms = cast("Atoms", self.atoms)
        periodic_cell = atoms.cell.rank == 3
        if "stress" in wanted and not periodic_cell:
            raise PropertyNotImplementedError("stress needs a cell with three vectors")
        descriptor = self.descriptor.resolve(self.model.network.elements)
        energies, dE_dG = self.model.atomic_energies(fingerprint_once(descriptor, atoms, described))
        energy = float(energies.sum())
        self.results = {"energy": energy, "free_energy": energy, "energies": energies}
        if wanted & {"forces", "stress"}:
            forces, virial = descriptor.contract(atoms, dE_dG)
            self.results["forces"] = forces
            if periodic_cell:
                stress = virial / abs(np.linalg.det(atoms.cell.array))
                self.results["stress"] = stress.flat[[0, 4, 8, 5, 2, 1]]

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
            `packs`, `pack_size` and `pack_seconds`; `energy_key`, `forces_key`,
            `stress_key`, `units`, `format` and `skip_unusable` for images whose labels have
            other names, are in other units, or are not complete.

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
        from ampmpi.members import Member
        from ampmpi.parallel.comm import as_communicator
        from ampmpi.parallel.launch import stop
        from ampmpi.parallel.log import Log, in_notebook
        from ampmpi.training import Session, Settings

        ranks = as_communicator(comm)
        settings = _settings(Settings, self.model.checkpoints, options)
        settings = replace(
            settings, overwrite=overwrite, logging=self.logging and self.label is not None
        )
        install_excepthook(ranks)
        with stop.caught(), abort_on_error(ranks):
            try:
                result = Session(
                    images,
                    self.descriptor,
                    [Member("the model", self.model)],
                    label=self.label or "amp",
                    dblabel=self.dblabel,
                    settings=settings,
                    comm=ranks,
                    terminal=Log(ranks.rank) if in_notebook() else None,
                ).train()
            except Unfinished as error:
                if ranks.size == 1 and stop.signal_name == "SIGINT":
                    raise KeyboardInterrupt(str(error)) from None
                raise
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


def _settings(kind: type[Settings], every: int | None, options: Mapping[str, Any]) -> Settings:
    """Make a training's settings of its options and of Amp's `checkpoints`.

    Negative `checkpoints` keep each; None or 0 leaves those that a restart needs.
    """
    known = {field.name for field in fields(kind)} - {"overwrite", "groups", "logging"}
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
