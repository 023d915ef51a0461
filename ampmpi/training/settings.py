"""How a training is done, whatever it is that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from ampmpi.database.packs import SECONDS, SIZE, PackLimits
from ampmpi.errors import InputError
from ampmpi.images.imageset import as_read
from ampmpi.images.labels import LabelKeys
from ampmpi.images.weights import Weighting
from ampmpi.model.optimise import BLOCK

NEEDS_VALIDATION = (
    "halving compares fits by their errors on images that they are not trained on: give "
    "--validation or --validation-fraction, too"
)


@dataclass(frozen=True)
class Schedule:
    """When a fit looks up from its steps.

    Attributes
    ----------
    validate_every : int
        Steps between evaluations on the validation set; the last step is validated, too.
    patience : int or None
        Steps without a better validation loss after which the fit ends.
    checkpoint_every : int
        Steps between checkpoints.
    keep_checkpoints : bool
        Keep a .amp file of each.
    block : int
        Iterations between fresh starts of the optimiser.
    max_seconds : float or None
        Seconds after the start of the job, fingerprints included, at which the training ends.
    """

    validate_every: int = 10
    patience: int | None = None
    checkpoint_every: int = 100
    keep_checkpoints: bool = False
    block: int = BLOCK
    max_seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Settings:
    """How a training is done.

    Attributes
    ----------
    validation : file names, list of ase.Atoms, or None
        Images to validate on.
    validation_fraction : float or None
        Fraction of the images to validate on, where `validation` is not given; None for a
        tenth, where there are at least 20 images.
    seed : int
        Seed of that choice.
    schedule : Schedule
        When to validate and to save.
    usual_patience : bool
        The schedule's patience is a default, not asked for: without images to validate on it
        has no effect, and is no error.
    memory : float or None
        Bytes that a rank may use; what its node has left by default.
    groups : int or None
        Groups of ranks that fit at the same time; as many as are of use by default.
    overwrite : bool
        Replace calculators and checkpoints of other trainings with the label.
    restart : bool
        Start over, also where this training was interrupted. A job that is put back into
        the queue goes on nevertheless.
    compress : bool
        Compress the databases at the end, unless they are shared by a dblabel.
    packs : bool
        Let each rank append the fingerprints that are missing to files of its own, instead
        of writing one file an entry.
    pack_size, pack_seconds : float
        Begin another pack after so many megabytes and seconds.
    energy_key, forces_key, stress_key : str or None
        Names under which the images carry their labels; found out by default.
    weight_key : str or None
        Name of the images' weights; ``config_weight`` by default.
    atom_weight_key : str or None
        Name of an array with the weights of each atom's force.
    type_weights : mapping of str to float or None
        Weights of images by their ``config_type``.
    units : str or None
        Units of files of images, such as ``eV,Å`` or ``atomic``; ASE's by default.
    format : str or None
        ASE's name of their format, where ASE cannot guess it.
    skip_unusable : bool
        Leave images out that cannot be trained on, and train on the energies alone of
        those that lack forces.
    logging : bool
        Write LABEL-log.txt.
    halving : bool
        Let the worse half of several fits end after each of some rounds.
    widen : bool
        Widen the ranges of features that a model already has to those of the images, and
        adapt its weights, so that it is the same function as before.
    """

    validation: Any = None
    validation_fraction: float | None = 0.0
    seed: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    usual_patience: bool = False
    memory: float | None = None
    groups: int | None = None
    overwrite: bool = False
    restart: bool = False
    compress: bool = True
    packs: bool = False
    pack_size: float = SIZE
    pack_seconds: float = SECONDS
    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    weight_key: str | None = None
    atom_weight_key: str | None = None
    type_weights: Mapping[str, float] | None = None
    units: str | None = None
    format: str | None = None
    skip_unusable: bool = False
    logging: bool = True
    halving: bool = False
    widen: bool = False

    @property
    def keys(self) -> LabelKeys:
        """Names of labels that were given."""
        return LabelKeys(self.energy_key, self.forces_key, self.stress_key)

    @property
    def weighting(self) -> Weighting:
        """Where weights are found."""
        types = {} if self.type_weights is None else self.type_weights
        return Weighting(self.weight_key, self.atom_weight_key, types)

    def as_read(self, images: Any) -> Any:
        """Return images with the units and the format in which they are to be read.

        Raises
        ------
        InputError
            These are not known, or the images are not files.
        """
        return as_read(images, self.units, self.format, self.keys)

    def check(self) -> None:
        """Refuse settings that are wrong or contradict each other.

        Raises
        ------
        InputError
            The message names them.
        """
        if self.validation is not None and self.validation_fraction:
            raise InputError(
                "validation images and a validation fraction are given; leave one of them out"
            )
        self.weighting.check()
        validates = self.validation is not None or self.validation_fraction != 0.0
        if self.schedule.patience is not None and not validates:
            raise InputError("patience needs validation images or a validation fraction")
        if self.halving and not validates:
            raise InputError(NEEDS_VALIDATION)
        seconds = self.schedule.max_seconds
        if seconds is not None and not (isinstance(seconds, Real) and seconds > 0):
            raise InputError(f"max_seconds is {seconds!r}; give a number above 0")
        if self.memory is not None and not (isinstance(self.memory, Real) and self.memory > 0):
            raise InputError(f"memory is {self.memory!r}; give a number of bytes")
        if self.packs:
            PackLimits.of(self.pack_size, self.pack_seconds)
