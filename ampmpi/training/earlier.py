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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ampmpi.descriptor import Gaussian
from ampmpi.errors import AmpmpiError, InputError, ModelError
from ampmpi.members import Member, committee_files, prefix_of
from ampmpi.model import NeuralNetwork, amp_file
from ampmpi.model import checkpoint as checkpoints
from ampmpi.training.dataset import Dataset
from ampmpi.training.results import targets
from ampmpi.training.settings import Schedule
from ampmpi.training.start import (
    FPRANGE,
    STALLED,
    Start,
    checkpoint_of,
    digest_of,
    ends_of,
    result_of,
)


@dataclass
class Earlier:
    """What was found under a label.

    Attributes
    ----------
    starts : list of Start
        Where each member's fit starts.
    remarks : list of str
        What the log says of it.
    forgotten : list of str
        Prefixes of the files whose checkpoints are no longer wanted.
    results : set of str
        Digests of the parameters that this training has ended with.
    """

    starts: list[Start] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    results: set[str] = field(default_factory=set)

    @property
    def finished(self) -> bool:
        """Whether every fit has ended, so that nothing is to be computed."""
        return all(start.result is not None for start in self.starts)


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
    descriptor: Gaussian,
    schedule: Schedule,
    *,
    overwrite: bool,
    restart: bool,
) -> Earlier:
    """Find where each member's fit starts; nothing is changed yet.

    Parameters
    ----------
    label : str
        Prefix of the training's files.
    members : sequence of Member
        What is to be fitted.
    dataset, descriptor, schedule
        With the models, what determines the fits.
    overwrite : bool
        Replace calculators and checkpoints of other trainings.
    restart : bool
        Start over, whatever checkpoints are there.

    Raises
    ------
    InputError
        Something is there that only an option replaces; the message names both.
    ModelError
        A checkpoint cannot be read.
    """
    found = Earlier()
    replaces = any(Path(name).exists() for name in targets(label, members))
    option = "--overwrite" if replaces else "--restart"
    for member in members:
        prefix = prefix_of(label, member, members)
        settings = settings_of(dataset, descriptor, member, schedule)
        if restart:
            found.forgotten.append(prefix)
            found.starts.append(Start(settings))
        else:
            start, different = _start(prefix, member.model, settings, schedule, overwrite, found)
            if different and not overwrite:
                raise InputError(
                    f"{checkpoint_of(prefix)} is of another training ({'; '.join(different)}): go "
                    f"back to its settings, take another label, or give {option} (overwrite=True "
                    "in a script) to start over"
                )
            found.starts.append(start)
    _refuse_targets(label, members, found.results, overwrite=overwrite)
    return found


def forget(found: Earlier) -> None:
    """Remove the checkpoints that are no longer wanted; Amp's first, as it stands in for ours."""
    for prefix in found.forgotten:
        Path(f"{prefix}-checkpoint.amp").unlink(missing_ok=True)
        Path(checkpoint_of(prefix)).unlink(missing_ok=True)


def _start(
    prefix: str,
    model: NeuralNetwork,
    settings: dict[str, Any],
    schedule: Schedule,
    overwrite: bool,
    found: Earlier,
) -> tuple[Start, list[str]]:
    """Find where one member's fit starts, and how its checkpoint differs from what is wanted.

    What comes with it is noted in `found`.
    """
    path = checkpoint_of(prefix)
    known = checkpoints.load(path, whole=False)
    if known is None:
        return _start_from_amp(f"{prefix}-checkpoint.amp", model, settings, found), []
    try:
        result = result_of(known)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(
            f"checkpoint {path} lacks the result that it tells of; remove it to start over"
        ) from error
    if result is not None and _holds(model, result.vector):
        # the same call again, with the calculator that the first one has trained
        settings = {**settings, "given parameters": known.settings.get("given parameters")}
    different = checkpoints.differences(known.settings, settings)
    is_at_end = result is not None and known.state["ends"] == ends_of(model.lossfunction, schedule)
    # without a seed every start is another one
    is_worn = (
        is_at_end
        and result is not None
        and model.randomseed is None
        and (overwrite or result.outcome == STALLED)
    )
    if different or is_worn:
        what = "of another training" if different else "of a finished training without a seed"
        found.remarks.append(f"{path} is {what}; starting anew.")
        found.forgotten.append(prefix)
        return Start(settings), different
    found.results.update(str(digest) for digest in known.state["results"])
    start = Start(settings, goes_on=True, fprange=known.arrays_of(FPRANGE))
    if is_at_end and result is not None:
        found.remarks.append(f"{path} says that this fit is finished; nothing to do.")
        start = replace(start, result=result, vector=result.vector)
    return start, []


def _start_from_amp(
    path: str, model: NeuralNetwork, settings: dict[str, Any], found: Earlier
) -> Start:
    """Start from the parameters of a checkpoint that Amp left, as Amp does; else from none."""
    if not Path(path).exists():
        return Start(settings)
    left = NeuralNetwork.from_parameters(amp_file.read(path)[1])
    if left.fprange is None or left.layers is None or left.scalings is None:
        raise ModelError(f"{path} lacks parameters; remove it to start over")
    wanted = model.hiddenlayers
    for element, nodes in left.network.nodes.items():
        layers = wanted.get(element) if isinstance(wanted, dict) else wanted
        if layers != nodes[1:-1] or left.activation != model.activation:
            raise InputError(
                f"{path} is of a network with {nodes[1:-1]} hidden nodes and {left.activation} for "
                f"{element}: train such a one, or remove it to start over"
            )
    found.remarks.append(f"Found {path}; starting from its parameters.")
    return Start(settings, fprange=left.fprange, vector=left.vector)


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
    return digest_of(vector) in results


def _holds(model: NeuralNetwork, vector: np.ndarray[Any, Any]) -> bool:
    """Whether a model has these parameters."""
    if model.fprange is None or model.layers is None or model.scalings is None:
        return False
    return np.array_equal(model.vector, vector)


def drawn_images(dataset: Dataset, draw: int | None) -> Mapping[str, float] | None:
    """Draw as many training images as there are, with replacement: how often each counts."""
    if draw is None:
        return None
    keys = dataset.keys[~dataset.validation]
    counts = np.bincount(
        np.random.default_rng(draw).integers(0, len(keys), len(keys)), minlength=len(keys)
    )
    return {
        key.decode(): float(count) for key, count in zip(keys, counts, strict=True) if count > 0
    }


def settings_of(
    dataset: Dataset, descriptor: Gaussian, member: Member, schedule: Schedule
) -> dict[str, Any]:
    """Collect what determines the way of a fit; a checkpoint belongs to one set of these."""
    model = member.model
    drawn = drawn_images(dataset, member.draw)
    loss = {
        k: v
        for k, v in model.lossfunction.parameters.items()
        if k not in ("convergence", "maxiter")
    }
    given = {k: v for k, v in model.parameters.items() if k in ("weights", "scalings", "fprange")}
    copies = dataset.copies[np.argsort(dataset.keys)]
    return {
        "images": dataset.digest,
        "validation images": dataset.validation_digest,
        "copies": _digest(copies.tobytes()) if loss["weight_duplicates"] else None,
        "bootstrap": None if drawn is None else _digest(repr(sorted(drawn.items())).encode()),
        "descriptor": descriptor.digest,
        "hiddenlayers": model.hiddenlayers,
        "activation": model.activation,
        "prescale": model.prescale,
        "seed": model.randomseed,
        "given parameters": _digest(repr(given).encode()) if any(given.values()) else None,
        "loss": loss,
        "optimiser": model.regressor.parameters,
        "validate_every": schedule.validate_every,
        "block": schedule.block,
    }


def _digest(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
