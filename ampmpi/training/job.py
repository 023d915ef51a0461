"""A training from images to parameters: survey, fingerprints, shares, fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ampmpi.descriptor import Gaussian
from ampmpi.errors import AmpmpiError, InputError, ModelError
from ampmpi.heap import keep_freed_memory
from ampmpi.model import NeuralNetwork, amp_file
from ampmpi.model import checkpoint as checkpoints
from ampmpi.model.layers import Array
from ampmpi.model.scaling import merge_ranges
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree, raise_first, share
from ampmpi.parallel.kernels import warm_up
from ampmpi.parallel.threads import one_blas_thread
from ampmpi.training.data import ResidentShare, ScaledShare, Share, Source, StreamedShare
from ampmpi.training.dataset import Dataset
from ampmpi.training.fit import STALLED, Fit, FitResult, Schedule, ends_of
from ampmpi.training.shared_loss import SharedLoss


@dataclass(frozen=True, eq=False)
class Prepared:
    """A group's images, ready to be trained on.

    Attributes
    ----------
    dataset : Dataset
        What is known of all images.
    descriptor : Gaussian
        The descriptor, with its elements.
    training, validation : Share
        This rank's share of both sets.
    fprange : mapping of str to (n_features, 2) float array
        Ranges of the features over the training images of all ranks.
    """

    dataset: Dataset
    descriptor: Gaussian
    training: Share
    validation: Share
    fprange: Mapping[str, Array]

    @property
    def n_training(self) -> int:
        """Number of images to train on."""
        return int((~self.dataset.validation).sum())

    @property
    def n_validation(self) -> int:
        """Number of images to validate on."""
        return int(self.dataset.validation.sum())


def load(
    comm: Communicator,
    dataset: Dataset,
    descriptor: Gaussian,
    source: Source,
    model: NeuralNetwork,
    *,
    resident: bool = True,
) -> Prepared:
    """Read this rank's share of a group's images from the database.

    Parameters
    ----------
    comm : Communicator
        The group.
    dataset, descriptor, source
        The images and where their fingerprints are.
    model : NeuralNetwork
        Its loss function says which images train a single force and how duplicates count.
    resident : bool
        Hold the arrays in memory; else they are read in every pass.
    """
    keep_freed_memory()
    warm_up(comm, "ampmpi.model")
    limits = model.lossfunction
    only_atoms = dict(limits.nft_ids or ())
    weights: dict[str, float] = {}
    if limits.weight_duplicates:
        weights = {
            key.decode(): float(n)
            for key, n in zip(dataset.keys, dataset.copies, strict=True)
            if n > 1
        }
    unknown = sorted(set(only_atoms) - {key.decode() for key in dataset.keys})
    if unknown:
        raise share(
            InputError(f"nft_ids names the image {unknown[0]}, which is not among the images")
        )
    shares: list[Share] = []
    for which in (~dataset.validation, dataset.validation):
        targets = dataset.targets(comm, which, keep_atoms=source.recompute and not resident)
        for seen in targets:
            if not -1 <= only_atoms.get(seen.key, -1) < len(seen.symbols):
                raise InputError(
                    f"nft_ids names atom {only_atoms[seen.key]} of image {seen.key}, which has "
                    f"{len(seen.symbols)} atoms"
                )
        if resident:
            shares.append(ResidentShare(source.samples(targets, only_atoms, weights)))
        else:
            shares.append(StreamedShare(source, targets, only_atoms, weights))
    ranges = merge_ranges([batch.fprange() for batch in shares[0]])
    fprange = merge_ranges(comm.allgather(ranges))
    return Prepared(dataset, descriptor, shares[0], shares[1], fprange)


def fit(
    comm: Communicator,
    prepared: Prepared,
    model: NeuralNetwork,
    label: str,
    schedule: Schedule,
    log: Callable[[str], None],
    drawn: Mapping[str, float] | None = None,
    *,
    start_anew: bool = True,
    redo: bool = False,
) -> FitResult:
    """Fit a model on a group of ranks, or go on with the fit that a checkpoint tells of.

    Parameters
    ----------
    comm : Communicator
        The group; all its ranks call this.
    prepared : Prepared
        The images.
    model : NeuralNetwork
        The model; gets the parameters found, on every rank.
    label : str
        Prefix of the files.
    schedule : Schedule
        When to validate and to save.
    log : callable
        Takes lines for the log.
    drawn : mapping of str to float, optional
        How often each training image counts; the others do not. For bootstrapping.
    start_anew : bool
        Whether to start anew where the checkpoint is of a finished fit with other settings.
    redo : bool
        Whether to start anew where it is of the same fit, if the model has no seed: every
        start is another one then. A stalled fit without a seed is started anew in any case.

    Raises
    ------
    Unfinished
        A signal asked to stop; every rank raises it.
    InputError
        A checkpoint belongs to a fit with other settings.
    """
    settings = _settings(prepared, model, schedule, drawn)
    path = f"{label}-checkpoint.npz"

    def known_checkpoint() -> checkpoints.Checkpoint | None:
        known = checkpoints.load(path)
        if known is None:
            return None
        if not checkpoints.differences(known.settings, settings):
            outcome, ends = known.state["outcome"], ends_of(model.lossfunction, schedule)
            if (
                model.randomseed is None
                and known.state["ends"] == ends
                and (outcome == STALLED or (outcome and redo))
            ):
                log(f"{path} is of a finished training without a seed; starting anew.")
                return None
            return known
        if known.state["outcome"] is None or not start_anew:
            checkpoints.check_settings(path, known.settings, settings)
        log(f"{path} is of a finished training with other settings; starting anew.")
        return None

    known = agree(comm, known_checkpoint)
    with _unchanged_on_error(model):
        if known is None:
            _take_amp_checkpoint(comm, model, label, log)
        loss = initial_loss(comm, prepared, model, drawn)

        def run() -> FitResult:
            try:
                return _run(prepared, model, label, schedule, log, settings, loss, known)
            finally:
                loss.finish()

        with one_blas_thread():
            if comm.rank:
                loss.serve()
            result = agree(comm, run)
        model.vector = result.vector
    return result


@contextmanager
def _unchanged_on_error(model: NeuralNetwork) -> Iterator[None]:
    """Leave a model without parameters, or with those it had, where a fit does not end."""
    names = ("hiddenlayers", "activation", "fprange", "layers", "scalings")
    before = {name: getattr(model, name) for name in names}
    try:
        yield
    except BaseException:
        for name, value in before.items():
            setattr(model, name, value)
        raise


def initial_loss(
    comm: Communicator,
    prepared: Prepared,
    model: NeuralNetwork,
    drawn: Mapping[str, float] | None = None,
) -> SharedLoss:
    """Give a model what it lacks, and return its loss on the images of a group.

    Parameters
    ----------
    comm : Communicator
        The group; all its ranks call this.
    prepared, model, drawn
        As for `fit`.

    Raises
    ------
    ModelError
        The images hold an element that the model lacks; every rank raises it.
    """
    dataset = prepared.dataset
    chosen = ~dataset.validation
    error = None
    try:
        model.initialise(
            prepared.fprange, dataset.energies[chosen], _columns(dataset, prepared)[chosen]
        )
        assert model.fprange is not None
        training = ScaledShare(prepared.training, model.fprange, drawn)
        validation = ScaledShare(prepared.validation, model.fprange)
    except AmpmpiError as caught:
        error = caught
    raise_first(comm, error)
    return SharedLoss(comm, model.network, model.lossfunction.coefficients, training, validation)


def _run(
    prepared: Prepared,
    model: NeuralNetwork,
    label: str,
    schedule: Schedule,
    log: Callable[[str], None],
    settings: dict[str, Any],
    loss: SharedLoss,
    known: checkpoints.Checkpoint | None,
) -> FitResult:
    """Fit on rank 0."""

    def save_amp(name: str, vector: Array) -> None:
        copy = NeuralNetwork.from_parameters(model.parameters)
        copy.vector = vector
        amp_file.write(name, prepared.descriptor.parameters, copy.parameters)

    start = model.vector
    if known is None:
        save_amp(f"{label}-initial-parameters.amp", start)
    fitting = Fit(
        loss,
        model.lossfunction,
        model.regressor,
        prepared.n_training,
        prepared.n_validation,
        schedule,
        label,
        settings,
        save_amp,
        log,
    )
    return fitting.run(start, known)


def _take_amp_checkpoint(
    comm: Communicator, model: NeuralNetwork, label: str, log: Callable[[str], None]
) -> None:
    """Go on from the parameters of a checkpoint that Amp left, as Amp does."""
    path = f"{label}-checkpoint.amp"

    def read() -> dict[str, Any] | None:
        if Path(f"{label}-checkpoint.npz").exists() or not Path(path).exists():
            return None
        log(f"Found {path}; starting from its parameters.")
        return amp_file.read(path)[1]

    parameters = agree(comm, read)
    if parameters is None:
        return
    found = NeuralNetwork.from_parameters(parameters)
    if found.fprange is None or found.layers is None or found.scalings is None:
        raise ModelError(f"{path} lacks parameters; remove it to start over")
    model.hiddenlayers, model.activation = found.hiddenlayers, found.activation
    model.fprange, model.layers, model.scalings = found.fprange, found.layers, found.scalings


def _columns(dataset: Dataset, prepared: Prepared) -> Array:
    """Composition with a column for each element of the training images."""
    return np.array(
        [dataset.composition[:, dataset.elements.index(e)] for e in sorted(prepared.fprange)]
    ).T


def _settings(
    prepared: Prepared,
    model: NeuralNetwork,
    schedule: Schedule,
    drawn: Mapping[str, float] | None,
) -> dict[str, Any]:
    """Collect what determines the way of a fit; a checkpoint belongs to one set of these."""
    loss = {
        k: v
        for k, v in model.lossfunction.parameters.items()
        if k not in ("convergence", "maxiter")
    }
    given = {k: v for k, v in model.parameters.items() if k in ("weights", "scalings", "fprange")}
    hidden = model.hiddenlayers
    dataset = prepared.dataset
    copies = dataset.copies[np.argsort(dataset.keys)]
    return {
        "images": dataset.digest,
        "validation images": dataset.validation_digest,
        "copies": _digest(copies.tobytes()) if loss["weight_duplicates"] else None,
        "bootstrap": None if drawn is None else _digest(repr(sorted(drawn.items())).encode()),
        "descriptor": prepared.descriptor.digest,
        "hiddenlayers": hidden,
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
