"""Amp's ``amp.convert``: potentials as files of n2p2, PROPhet and OpenKIM.

Under ``mpirun`` rank 0 writes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ampmpi.amp._logger import Logger
from ampmpi.calculator import Amp
from ampmpi.descriptor import from_parameters
from ampmpi.export.n2p2 import input_data, n2p2_files, sorting_key
from ampmpi.export.openkim import openkim_text
from ampmpi.export.prophet import prophet_texts
from ampmpi.files.whole import write_whole
from ampmpi.model import NeuralNetwork
from ampmpi.parallel.comm import world

__all__ = [
    "get_Gs_indices",
    "overwrite_file",
    "save_to_n2p2",
    "save_to_n2p2_images_only",
    "save_to_openkim",
    "save_to_prophet",
]


def save_to_n2p2(
    desc_pars: Mapping[str, Any],
    model_pars: Mapping[str, Any],
    images: Any = None,
    log: Any = None,
    reference_method: str = "PBE",
) -> None:
    """Save a potential as n2p2's files in this folder; see `ampmpi.export.save_to_n2p2`.

    Parameters
    ----------
    desc_pars, model_pars : mapping
        Parameters of the descriptor and the model.
    images : ase.Atoms or list of ase.Atoms, optional
        Images that go to input.data.
    log : str, open text file or Logger, optional
        Where to say what became of files that were there; standard output by default.
    reference_method : str
        What made the training's energies, for a remark in input.nn.

    Raises
    ------
    InputError
        The potential has something that n2p2 has no word for.
    """
    calc = Amp(from_parameters(desc_pars), NeuralNetwork.from_parameters(model_pars), label=None)
    files = n2p2_files(calc)
    files["input.nn"] = f"# Reference method: {reference_method.upper()}\n{files['input.nn']}"
    if images:
        files["input.data"] = input_data(images)
    _replace(files, _logger(log))


def save_to_n2p2_images_only(images: Any, log: Any = None) -> None:
    """Save images as n2p2's input.data in this folder; see `ampmpi.export.n2p2.input_data`."""
    _replace({"input.data": input_data(images)}, _logger(log))


def save_to_openkim(
    calc: Amp, filename: str = "amp.params", overwrite: bool = False, units: str = "metal"
) -> None:
    """Save a potential for Amp's KIM model driver; see `ampmpi.export.save_to_openkim`.

    Where the file is there, it goes to the temporary folder with `overwrite`, and the new one
    without; the log says so.
    """
    _save(filename, {"": openkim_text(calc, units)}, ".params", calc._log, overwrite=overwrite)


def save_to_prophet(
    calc: Amp, filename: str = "potential_", overwrite: bool = False, units: str = "metal"
) -> None:
    """Save a potential for PROPhet, a file an element; see `ampmpi.export.save_to_prophet`.

    Where one of the files is there, they go to the temporary folder with `overwrite`, and the
    new ones without; the log says so.
    """
    _save(filename, prophet_texts(calc, units), ".amp", calc._log, overwrite=overwrite)


def overwrite_file(filename: str, log: Callable[[str], object], suffix: str = ".data") -> None:
    """Move a file that is there to the temporary folder, and say so."""
    if Path(filename).exists():
        spare = _temporary(suffix)
        log(f'Overwriting file: "{filename}". Moving original to "{spare}".')
        shutil.move(filename, spare)


def get_Gs_indices(  # noqa: N802
    Gs: Sequence[Mapping[str, Any]],
) -> tuple[list[int], list[dict[str, Any]]]:
    """Return the order in which n2p2 sorts an element's functions, and the functions in it."""
    functions = [dict(function) for function in Gs]
    keys = [sorting_key(function, function["eta"]) for function in functions]
    indices = sorted(range(len(keys)), key=keys.__getitem__)
    return indices, [functions[i] for i in indices]


def _logger(log: Any) -> Callable[[str], object]:
    if isinstance(log, str | os.PathLike):
        return partial(_append, Path(log))
    found: Callable[[str], object] = log if callable(log) else Logger(log or sys.stdout)
    return found


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")


def _save(
    prefix: str,
    texts: Mapping[str, str],
    suffix: str,
    log: Callable[[str], object],
    *,
    overwrite: bool,
) -> None:
    """Write files whose names begin alike; elsewhere, where one of them is there."""
    if world().rank:
        return
    if not overwrite and any(Path(prefix + name).exists() for name in texts):
        spare = _temporary(suffix)
        log(f'File "{prefix}" exists. Instead saving to "{spare}".')
        for name, text in texts.items():
            write_whole(spare + name, text.encode())
    else:
        _replace({prefix + name: text for name, text in texts.items()}, log)


def _replace(files: Mapping[str, str], log: Callable[[str], object]) -> None:
    """Write files, after moving those that are there."""
    if world().rank:
        return
    for name, text in files.items():
        overwrite_file(name, log, Path(name).suffix)
        write_whole(name, text.encode())


def _temporary(suffix: str) -> str:
    """Return the name of a new file in the temporary folder."""
    handle, name = tempfile.mkstemp(suffix=suffix)
    os.close(handle)
    return name
