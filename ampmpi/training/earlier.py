"""What earlier trainings have left under a label: gone on with, returned, or refused.

There is one rule, for commands and scripts alike, and it is applied before anything is computed:

- A calculator (LABEL.amp, the committee's files) that is not the result of this very training
  is replaced only with `overwrite`.
- The checkpoint of another training is replaced only with `overwrite` or `restart`.
- This training, interrupted, goes on; finished, its result is returned. Which training a
  checkpoint is of depends on everything that determines its way, not on when it is to end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ampmpi.descriptor import Descriptor
from ampmpi.errors import AmpmpiError, InputError, ModelError
from ampmpi.members import Member, committee_files, prefix_of, targets
from ampmpi.model import LossFunction, NeuralNetwork, amp_file
from ampmpi.model import checkpoint as checkpoints
from ampmpi.model.layers import Array
from ampmpi.model.loss import LossTerms
from ampmpi.parameters import plain
from ampmpi.training.curve import Step
from ampmpi.training.dataset import Dataset
from ampmpi.training.settings import Schedule

if TYPE_CHECKING:
    from ampmpi.training.halving import Bracket

CONVERGED, MAXITER, EARLY, STALLED = "converged", "maxiter", "early stopping", "stalled"
TIME = "out of time"

FPRANGE = "fprange."

_NOW = tuple(field.name for field in fields(Step))
_NO_PART = tuple(name for name in _NOW if name != "part")
LAYOUTS = {
    len(names): names
    for names in (_NOW, _NO_PART, tuple(name for name in _NO_PART if "stress" not in name))
}
"""What the numbers of a step are, by how many there are: in this version, before fits began on
part of the images, and before stresses were trained."""

START_OVER = "remove it, or give --restart (restart=True in a script), to start over"


@dataclass(frozen=True, eq=False)
class FitResult:
    """End of a fit.

    The parameters are those that converged; else those with the smallest validation loss, or
    training loss without a validation set.
    """

    outcome: str  # one of the five above
    vector: Array  # the parameters
    best: Step  # errors at these parameters
    steps: int  # evaluations of the loss
    terms: LossTerms | None = None  # the loss there, where it was computed and not read


@dataclass(frozen=True, eq=False)
class Start:
    """Where a fit starts: from a checkpoint of its own, or from given ranges and parameters."""

    settings: dict[str, Any]  # what determines the fit; kept in its checkpoint
    goes_on: bool = False  # whether there is a checkpoint of this fit to go on from
    result: FitResult | None = None  # its end, where the checkpoint tells that it is finished
    fprange: Mapping[str, Array] | None = None
    vector: Array | None = None
    out: bool = False  # whether a round of a sweep with halving has ended it

    def apply(self, model: NeuralNetwork) -> None:
        """Give a model the ranges and parameters."""
        if self.fprange is not None:
            model.fprange = dict(self.fprange)
        if self.vector is not None:
            model.vector = self.vector


@dataclass
class Earlier:
    """What was found under a label."""

    starts: list[Start] = field(default_factory=list)  # of each member's fit
    remarks: list[str] = field(default_factory=list)  # what the log says of it
    forgotten: list[str] = field(default_factory=list)  # prefixes of checkpoints to remove
    stale: list[Path] = field(default_factory=list)  # other files to remove
    bracket: Bracket | None = None  # the rounds of a sweep with halving
    results: set[str] = field(default_factory=set)  # digests of this training's parameters

    @property
    def finished(self) -> bool:
        """Whether every fit has ended, so that nothing is to be computed."""
        return all(start.result is not None or start.out for start in self.starts)


def checkpoint_of(prefix: str) -> str:
    """Return the name of a fit's checkpoint."""
    return f"{prefix}-checkpoint.npz"


def ends_of(limits: LossFunction, schedule: Schedule, outcome: str | None) -> dict[str, Any]:
    """Return what decides when a fit ends; a restart with other values goes on from the end.

    Seconds count only where it is time that has ended the fit.
    """
    settings = limits.settings()
    ends = {
        "convergence": settings["convergence"] if limits.raise_ConvergenceOccurred else None,
        "maxiter": settings["maxiter"],
        "patience": schedule.patience,
    }
    return {**ends, "seconds": schedule.max_seconds} if outcome == TIME else ends


def step_of(values: Array) -> Step:
    """Return a step from its numbers in a checkpoint, of this version or an earlier one.

    Raises
    ------
    ValueError
        There are fewer or more numbers than any version has written.
    """
    if len(values) not in LAYOUTS:
        raise ValueError(f"a step has {len(values)} numbers")
    numbers = dict(zip(LAYOUTS[len(values)], values.tolist(), strict=True))
    return Step(**{**numbers, "step": int(values[0])})


def digest_of(data: bytes) -> str:
    """Return what tells numbers, such as the parameters of a result, from others."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def refuse_at_once(
    label: str, members: Sequence[Member], *, overwrite: bool, restart: bool
) -> None:
    """Refuse to replace calculators that no checkpoint can tell of, before images are read."""
    prefixes = [prefix_of(label, member, members) for member in members]
    if restart or not any(Path(checkpoint_of(prefix)).exists() for prefix in prefixes):
        _refuse_targets(label, members, set(), overwrite=overwrite)


def look(
    label: str,
    members: Sequence[Member],
    dataset: Dataset,
    descriptor: Descriptor,
    schedule: Schedule,
    *,
    overwrite: bool,
    restart: bool,
) -> Earlier:
    """Find where each member's fit starts; nothing is changed yet."""
    found = Earlier()
    for member in members:
        prefix = prefix_of(label, member, members)
        start = Start(settings_of(dataset, descriptor, member, schedule))
        if restart:
            found.forgotten.append(prefix)
        elif Path(checkpoint_of(prefix)).exists():
            start, different = _own_start(prefix, member.model, start, schedule, overwrite, found)
            if different and not overwrite:
                replaces = any(Path(name).exists() for name in targets(label, members))
                raise InputError(
                    f"{checkpoint_of(prefix)} is of another training ({'; '.join(different)}): go "
                    "back to its settings, take another label, or give "
                    f"{'--overwrite' if replaces else '--restart'} (overwrite=True in a script) "
                    "to start over"
                )
        elif Path(f"{prefix}-checkpoint.amp").exists():
            start = _amp_start(f"{prefix}-checkpoint.amp", member.model, start, found)
        found.starts.append(start)
    _refuse_targets(label, members, found.results, overwrite=overwrite)
    return found


def forget(found: Earlier) -> None:
    """Remove what is no longer wanted; Amp's checkpoints first, as they stand in for ours."""
    for path in found.stale:
        path.unlink(missing_ok=True)
    for prefix in found.forgotten:
        Path(f"{prefix}-checkpoint.amp").unlink(missing_ok=True)
        Path(checkpoint_of(prefix)).unlink(missing_ok=True)


def _own_start(
    prefix: str,
    model: NeuralNetwork,
    start: Start,
    schedule: Schedule,
    overwrite: bool,
    found: Earlier,
) -> tuple[Start, list[str]]:
    """Start as the checkpoint tells, and say how it differs from what is wanted."""
    path = checkpoint_of(prefix)
    known = checkpoints.load(path, whole=False)
    if known is None:
        return start, []
    result, settings = _result_of(path, known), start.settings
    if result is not None and _holds(model, result.vector):
        # the same call again, with the calculator that the first one has trained
        settings = {**settings, "given parameters": known.settings.get("given parameters")}
    different = checkpoints.differences(known.settings, settings)
    if known.state["ends"] != ends_of(model.lossfunction, schedule, known.state["outcome"]):
        result = None  # it goes on from its end
    # without a seed every start is another one
    is_worn = (
        result is not None and model.randomseed is None and (overwrite or result.outcome == STALLED)
    )
    if different or is_worn:
        what = "of another training" if different else "of a finished training without a seed"
        found.remarks.append(f"{path} is {what}; starting anew.")
        found.forgotten.append(prefix)
        return Start(settings), different
    found.results.update(str(digest) for digest in known.state["results"])
    if result is not None:
        found.remarks.append(f"{path} says that this fit is finished; nothing to do.")
    vector = None if result is None else result.vector
    return Start(settings, True, result, known.arrays_of(FPRANGE), vector), []


def _result_of(path: str, known: checkpoints.Checkpoint) -> FitResult | None:
    """Return the end that a checkpoint tells of; None where the fit is not finished."""
    state, arrays = known.state, known.arrays
    if state["outcome"] is None:
        return None
    try:
        end = step_of(arrays["end"])
        return FitResult(state["outcome"], arrays["end_vector"], end, state["steps"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(
            f"checkpoint {path} lacks the result that it tells of; {START_OVER}"
        ) from error


def _amp_start(path: str, model: NeuralNetwork, start: Start, found: Earlier) -> Start:
    """Start from the parameters of a checkpoint that Amp left, as Amp does."""
    left = NeuralNetwork.from_parameters(amp_file.read(path)[1])
    if not left.is_whole:
        raise ModelError(f"{path} lacks parameters; {START_OVER}")
    wanted = model.hiddenlayers
    for element, nodes in left.network.nodes.items():
        layers = wanted.get(element) if isinstance(wanted, dict) else wanted
        if layers != nodes[1:-1] or left.activation != model.activation:
            raise InputError(
                f"{path} is of a network with {nodes[1:-1]} hidden nodes and {left.activation} for "
                f"{element}: train such a one, or {START_OVER}"
            )
    found.remarks.append(f"Found {path}; starting from its parameters.")
    return replace(start, fprange=left.fprange, vector=left.vector)


def _refuse_targets(
    label: str, members: Sequence[Member], results: set[str], *, overwrite: bool
) -> None:
    """Refuse to replace or remove calculators that are not results of this training."""
    if overwrite:
        return
    wanted = targets(label, members)
    for name in wanted:
        if Path(name).exists() and not _is_result(name, results):
            raise InputError(
                f"{name} is there already, and is not the result of this training; give "
                "--overwrite (overwrite=True in a script) to replace it, or another label"
            )
    for name in committee_files(label):
        if name not in wanted:
            raise InputError(
                f"{name} is of an earlier committee with the label {label}; give --overwrite "
                "(overwrite=True in a script) to remove it, or another label"
            )


def _is_result(name: str, results: set[str]) -> bool:
    try:
        vector = NeuralNetwork.from_parameters(amp_file.read(name)[1]).vector
    except AmpmpiError:
        return False
    return digest_of(vector.tobytes()) in results


def _holds(model: NeuralNetwork, vector: Array) -> bool:
    """Whether a model has these parameters."""
    return model.is_whole and np.array_equal(model.vector, vector)


def drawn_images(dataset: Dataset, draw: int | None) -> Mapping[str, float] | None:
    """Draw as many training images as there are, with replacement: how often each counts.

    Those with energies, forces or stresses to train on and those without are drawn apart, so
    that every draw has as many of them.
    """
    if draw is None:
        return None
    keys = dataset.keys[~dataset.validation]
    has_forces = dataset.has_forces[~dataset.validation]
    has_stress = dataset.has_stress[~dataset.validation]
    has_energy = dataset.has_energy[~dataset.validation]
    strata = [
        np.flatnonzero((has_energy == energy) & (has_forces == forces) & (has_stress == stress))
        for energy in (True, False)
        for forces in (True, False)
        for stress in (True, False)
    ]
    counts = np.zeros(len(keys), dtype=np.int64)
    random = np.random.default_rng(draw)
    for stratum in strata:
        if len(stratum):
            np.add.at(counts, stratum[random.integers(0, len(stratum), len(stratum))], 1)
    return {
        key.decode(): float(count) for key, count in zip(keys, counts, strict=True) if count > 0
    }


def settings_of(
    dataset: Dataset, descriptor: Descriptor, member: Member, schedule: Schedule
) -> dict[str, Any]:
    """Collect what determines the way of a fit; a checkpoint belongs to one set of these."""
    model = member.model
    drawn = drawn_images(dataset, member.draw)
    loss = model.lossfunction.settings()
    del loss["convergence"], loss["maxiter"]
    given = {
        k: v for k, v in plain(model.parameters).items() if k in ("weights", "scalings", "fprange")
    }
    copies = dataset.copies[np.argsort(dataset.keys)]
    return {
        "images": dataset.digest,
        "validation images": dataset.validation_digest,
        "weights": dataset.weights_digest,
        "copies": digest_of(copies.tobytes()) if loss["weight_duplicates"] else None,
        "bootstrap": None if drawn is None else digest_of(repr(sorted(drawn.items())).encode()),
        "descriptor": descriptor.digest,
        "hiddenlayers": model.hiddenlayers,
        "activation": model.activation,
        "prescale": model.prescale,
        "scale_features": None if model.scale_features == "range" else model.scale_features,
        "constant_features": None if model.constant_features == "keep" else model.constant_features,
        "seed": model.randomseed,
        "given parameters": digest_of(repr(given).encode()) if any(given.values()) else None,
        "loss": loss,
        "optimiser": model.regressor.parameters,
        "validate_every": schedule.validate_every,
        "block": schedule.block,
    }
