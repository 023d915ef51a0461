"""Amp's pictures of a calculator's errors, and of how the loss depends on its parameters."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ampmpi.amp._images import check_images
from ampmpi.amp._logger import make_filename
from ampmpi.amp._pictures import keep, keep_pages, new_figure, refuse_existing, require_matplotlib
from ampmpi.calculator import Amp
from ampmpi.errors import InputError
from ampmpi.evaluation import Evaluation, evaluate
from ampmpi.images import hash_images
from ampmpi.images.labels import LabelKeys
from ampmpi.model import LossFunction
from ampmpi.model.layers import Array
from ampmpi.parallel.comm import Communicator, world
from ampmpi.parallel.failure import abort_on_error, agree, install_excepthook, on_all
from ampmpi.parallel.schedule import block
from ampmpi.training.anneal import loss_of


def evaluated(comm: Communicator, calc: Amp, images: Any, *, forces: bool) -> dict[str, Evaluation]:
    """Predict labelled images, each rank its share; every rank gets all, by their hash."""
    hashed = on_all(comm, lambda: _labelled(images, forces=forces))
    atoms = list(hashed.values())
    share = block(len(atoms), comm.rank, comm.size)
    mine = on_all(comm, lambda: evaluate(calc, atoms, indices=share, keys=LabelKeys()))
    found = [one for part in comm.allgather(mine) for one in part]
    return dict(zip(hashed, found, strict=True))


def _labelled(images: Any, *, forces: bool) -> Mapping[str, Any]:
    hashed = hash_images(images)
    if not hashed:
        raise InputError("there is no image; give some with energies")
    check_images(hashed, forces)
    return hashed


def _loaded(calc: Any, **options: Any) -> Amp:
    return Amp.load(calc, **options) if isinstance(calc, str | os.PathLike) else calc


def plot_parity_and_error(
    calc: Any,
    images: Any,
    label_parity: str = "parity",
    label_error: str = "error",
    dblabel: str | None = None,
    xtic_angle: float = 45.0,
    plot_forces: bool = True,
    plotfile_parity: Any = None,
    plotfile_error: Any = None,
    color: str = "b.",
    overwrite: bool = False,
    returndata: bool = False,
) -> Any:
    """Draw predicted energies and forces, and their errors, against the images' own.

    Parameters
    ----------
    calc : Amp or file name
        The calculator.
    images : list of ase.Atoms, or file name
        Images with energies and, where they are drawn, forces. Ranks share them.
    label_parity, label_error : str
        What the pictures' names begin with, before ``-plot.pdf``.
    dblabel : str, optional
        Not looked at: predictions need no database.
    xtic_angle : float
        Angle of the numbers at the horizontal axes, degrees.
    plot_forces : bool
        Draw forces, too.
    plotfile_parity, plotfile_error : str or open file, optional
        Names of the pictures.
    color : str
        matplotlib's format of the points.
    overwrite : bool
        Replace pictures that are there.
    returndata : bool
        Return the numbers, too.

    Returns
    -------
    energies, forces : dict
        With `returndata`, by image hash: ``[reference, predicted, reference per atom, absolute
        error per atom]``, eV, and ``[reference, predicted, absolute error]``, (n_atoms, 3) arrays,
        eV/Å. The former alone without `plot_forces`.

    Raises
    ------
    InputError
        A picture is there already, or there are no images.
    MissingDataError
        An image has no energy, or no forces.
    """
    comm = world()
    install_excepthook(comm)
    parity = plotfile_parity or make_filename(label_parity, "-plot.pdf")
    error = plotfile_error or make_filename(label_error, "-plot.pdf")
    with abort_on_error(comm):
        for file in (parity, error):
            agree(comm, partial(refuse_existing, file, overwrite=overwrite))
        on_all(comm, require_matplotlib)
        loaded = on_all(comm, lambda: _loaded(calc))
        found = evaluated(comm, loaded, images, forces=plot_forces)
        energies = {key: _energy_row(one) for key, one in found.items()}
        forces = {key: _force_row(one) for key, one in found.items()} if plot_forces else {}
        table = np.array(list(energies.values()))
        components = [
            np.concatenate([row[column].ravel() for row in forces.values()])
            for column in range(3 if forces else 0)
        ]
        for file, draw in ((parity, _draw_parity), (error, _draw_errors)):
            figure = new_figure(5.0, 10.0 if plot_forces else 5.0)
            grid = figure.subplots(2 if plot_forces else 1, 1, squeeze=False)[:, 0]
            draw(grid, table, components, color)
            for axes, title in zip(grid, ("Energies", "Forces"), strict=False):
                axes.set_title(title)
                axes.tick_params(axis="x", rotation=xtic_angle)
            keep(figure, file)
    if not returndata:
        return None
    return (energies, forces) if plot_forces else energies


def _energy_row(one: Evaluation) -> list[float]:
    assert one.energy is not None  # the images were checked
    reference = one.energy
    return [
        reference, one.mean_energy, reference / len(one.atoms), abs(one.energy_error)
    ]  # fmt: skip


def _force_row(one: Evaluation) -> list[Array]:
    assert one.forces is not None
    return [one.forces, one.mean_forces, np.abs(one.force_errors)]


def _draw_parity(grid: Any, energies: Array, forces: Sequence[Array], color: str) -> None:
    pairs = [(energies[:, 0], energies[:, 1], "energy, eV")]
    if forces:
        pairs.append((forces[0], forces[1], "force, eV/Å"))
    for axes, (reference, predicted, what) in zip(grid, pairs, strict=True):
        ends = reference.min(), reference.max()
        axes.plot(reference, predicted, color)
        axes.plot(ends, ends, "r-", linewidth=0.3)
        axes.set_xlabel(f"reference {what}")
        axes.set_ylabel(f"predicted {what}")


def _draw_errors(grid: Any, energies: Array, forces: Sequence[Array], color: str) -> None:
    pairs = [(energies[:, 2], energies[:, 3], "energy", "eV per atom")]
    if forces:
        pairs.append((forces[0], forces[2], "force", "eV/Å"))
    for axes, (reference, error, what, unit) in zip(grid, pairs, strict=True):
        rmse = float(np.sqrt(np.mean(error**2)))
        axes.plot(reference, error, color)
        axes.axhline(rmse, color="black", linestyle="dashed", linewidth=1)
        axes.annotate(
            f"{what} rmse = {rmse:.5f} {unit}", (1.0, rmse), xycoords=("axes fraction", "data"),
            ha="right", va="bottom",
        )  # fmt: skip
        axes.set_xlabel(f"reference {what}, {unit}")
        axes.set_ylabel(f"error of the {what}, {unit}")


def calc_rmse(
    calc_paths: Sequence[str],
    images: Any,
    cores: Any = None,
    dblabel: str | None = None,
    energy_coefficient: float = 1.0,
    force_coefficient: float = 0.04,
) -> dict[str, list[Any]]:
    """Measure the errors of several calculators, such as the checkpoints of a training.

    Parameters
    ----------
    calc_paths : list of str
        The .amp files; their names are numbers, such as ``LABEL-checkpoints/100.amp``.
    images : list of ase.Atoms, or file name
        Images with energies and, unless `force_coefficient` is 0, forces.
    cores, dblabel : optional
        Not looked at: ranks come from ``mpirun``, and predictions need no database.
    energy_coefficient, force_coefficient : float
        Weights of the loss.

    Returns
    -------
    dict
        Lists, an item for each calculator: ``steps`` (the names' numbers), ``loss``,
        ``energy_loss``, ``force_loss``, ``energy_maxresid`` and ``energy_rmse`` (eV per atom),
        ``force_maxresid`` and, where forces count, ``force_rmse`` (eV/Å).

    Raises
    ------
    InputError
        A file's name is not a number, or there are no images.
    MissingDataError
        An image has no energy, or no forces.
    """
    comm = world()
    install_excepthook(comm)
    forces = force_coefficient != 0.0
    names = ["steps", "loss", "energy_loss", "force_loss", "energy_maxresid", "force_maxresid",
             "energy_rmse", *(["force_rmse"] if forces else [])]  # fmt: skip
    data: dict[str, list[Any]] = {name: [] for name in names}
    with abort_on_error(comm):
        for path in calc_paths:
            step = on_all(comm, partial(_number, path))
            calc = on_all(comm, partial(Amp.load, path))
            found = list(evaluated(comm, calc, images, forces=forces).values())
            energy = np.array([one.energy_error for one in found])
            squares, largest = np.zeros(len(found)), 0.0
            if forces:
                squares = np.array([one.force_rmse**2 for one in found])
                largest = max(float(np.abs(one.force_errors).max()) for one in found)
            sums = float(np.sum(energy**2)), float(np.sum(squares))
            loss = energy_coefficient * sums[0] + force_coefficient * sums[1]
            rmse = [float(np.sqrt(part / len(found))) for part in sums]
            row = [step, loss, *sums, float(np.abs(energy).max()), largest, *rmse]
            for name, value in zip(names, row, strict=False):
                data[name].append(value)
    return data


def _number(path: str) -> int:
    name = re.fullmatch(r"(\d+)\.amp", Path(path).name)
    if name is None:
        raise InputError(f"{path}: the name is not a step's number; give files such as 100.amp")
    return int(name[1])


def plot_sensitivity(
    calc: Any,
    images: Any,
    d: float = 0.0001,
    label: str = "sensitivity",
    dblabel: str | None = None,
    plotfile: Any = None,
    overwrite: bool = False,
    energy_coefficient: float = 1.0,
    force_coefficient: float = 0.04,
) -> Array:
    """Draw how the loss changes with each parameter of a calculator's model.

    Parameters
    ----------
    calc : Amp or file name
        The calculator.
    images : list of ase.Atoms, or file name
        Images with energies and, unless `force_coefficient` is 0, forces. Ranks share them.
    d : float
        Change of each parameter.
    label : str
        What the picture's name begins with, before ``-plot.pdf``.
    dblabel : str, optional
        Prefix of the databases of fingerprints; `label` by default.
    plotfile : str or open file, optional
        Name of the picture, a PDF with a page for each parameter.
    overwrite : bool
        Replace a picture that is there.
    energy_coefficient, force_coefficient : float
        Weights of the loss.

    Returns
    -------
    (n_parameters, 3) float array
        The loss with each parameter smaller by `d`, as it is, and larger by `d`.

    Raises
    ------
    InputError
        The picture is there already, or the images cannot be used.
    """
    comm = world()
    install_excepthook(comm)
    file = plotfile or make_filename(label, "-plot.pdf")
    with abort_on_error(comm):
        agree(comm, lambda: refuse_existing(file, overwrite=overwrite))
        on_all(comm, require_matplotlib)
        loaded = on_all(comm, lambda: _loaded(calc))
        criteria = {"force_rmse": 0.01 if force_coefficient else None}
        lossfunction = LossFunction(energy_coefficient, force_coefficient, criteria)
        with loss_of(
            loaded, images, comm, label=label, dblabel=dblabel or label, lossfunction=lossfunction
        ) as loss:

            def run() -> Array:
                try:
                    return _changed_losses(loss, loaded.model.vector, d)
                finally:
                    loss.shared.finish()

            if comm.rank:
                loss.shared.serve()
            losses = agree(comm, run)
        vector = loaded.model.vector
        pages = (
            _sensitivity_page(number, vector[number], d, row) for number, row in enumerate(losses)
        )
        keep_pages(pages, file)
    return losses


def _changed_losses(loss: Any, vector: Array, d: float) -> Array:
    losses = np.full((len(vector), 3), loss(vector))
    for number in range(len(vector)):
        for column, change in ((0, -d), (2, d)):
            changed = vector.copy()
            changed[number] += change
            losses[number, column] = loss(changed)
    return losses


def _sensitivity_page(number: int, value: float, d: float, losses: Array) -> Any:
    figure = new_figure(6.4, 4.8, fitted=False)
    axes = figure.subplots()
    axes.plot([value - d, value, value + d], losses, marker="o", linestyle="--", color="b")
    axes.set_xlabel(f"parameter no {number}")
    axes.set_ylabel("loss function")
    return figure
