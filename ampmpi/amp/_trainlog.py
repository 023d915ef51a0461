"""Logs of trainings, Amp's and ours: read, and drawn."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ampmpi.errors import InputError

START = "Amp training started."
CRITERIA = ("energy_rmse", "energy_maxresid", "force_rmse", "force_maxresid")
COEFFICIENTS = ("energy_coefficient", "force_coefficient")

_ROW = re.compile(r"\s*\d+\s+\d{4}-\d\d-\d\dT\S+\s")
_SETTING = re.compile(rf"\s*({'|'.join(CRITERIA + COEFFICIENTS)}):\s*(\S+)\s*")
_OUTCOMES = {
    "...optimization successful.": True,
    "optimization completed successfully.": True,  # older versions of Amp
    "...optimization unsuccessful.": False,
    "could not find parameters for the": None,
}


def read_trainlog(
    logfile: str | os.PathLike[str], verbose: bool = True, multiple: int | bool = 0
) -> Any:
    """Read a training's log, LABEL-log.txt, of Amp or of ours.

    Parameters
    ----------
    logfile : path
        The log.
    verbose : bool
        Print the settings and the rows that are found.
    multiple : int or True
        Which training, where the log tells of several, counted from 0; True returns all as a
        list.

    Returns
    -------
    dict
        ``no_images`` and ``convergence``. The latter holds the criteria and coefficients;
        ``costfxngoal``, the loss at which both rmse are met; ``converged``, None where the log
        does not tell; and the table's columns: ``steps``, ``costfxns`` (loss), ``es`` and
        ``emrs`` (rmse and largest error of the energy, eV per atom), ``fs`` and ``fmrs`` (of the
        forces, eV/Å), ``costfxnEs`` and ``costfxnFs`` (parts of the loss, from 0 to 1).

    Raises
    ------
    InputError
        The file cannot be read, or tells of no such training.
    """
    try:
        lines = Path(logfile).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{os.fspath(logfile)} cannot be read: {error.strerror}") from error
    starts = [index for index, line in enumerate(lines) if line.startswith(START)]
    ends = [*starts, len(lines)][1:]
    sections = [lines[start:end] for start, end in zip(starts, ends, strict=True)]
    if multiple is not True and not 0 <= int(multiple) < len(sections):
        raise InputError(
            f"{os.fspath(logfile)} tells of {len(sections)} trainings, so that there is no number "
            f"{int(multiple)} (counted from 0); give the log of a training"
        )
    chosen = sections if multiple is True else [sections[int(multiple)]]
    found = [_read(section) for section in chosen]
    if verbose:
        for data, section in zip(found, chosen, strict=True):
            _show(data, section)
    return found if multiple is True else found[0]


def _read(lines: Sequence[str]) -> dict[str, Any]:
    """Return what the part of a log tells that belongs to one training."""
    data: dict[str, Any] = {}
    settings: dict[str, float | None] = {}
    rows: list[list[float]] = []
    converged: bool | None = None
    for line in lines:
        if "unique images after hashing." in line:
            data.setdefault("no_images", int(line.split()[0]))
        setting = _SETTING.fullmatch(line)
        if _ROW.match(line):
            rows.append(_numbers(line))
        elif setting is not None and not rows:
            settings.setdefault(setting[1], None if setting[2] == "None" else float(setting[2]))
        ended = [value for words, value in _OUTCOMES.items() if words in line]
        if ended:
            converged = ended[0]
            break
        if rows and not line:
            break
    if settings:
        data["convergence"] = _convergence(data.get("no_images", 0), settings, rows, converged)
    return data


def _numbers(row: str) -> list[float]:
    """Return step, loss and errors of a row; whether a criterion is met is left out."""
    step, _, loss, *errors = row.partition("|")[0].split()  # what comes after | is validation
    return [float(value) for value in (step, loss, *errors[::2])]


def _convergence(
    n_images: int,
    settings: dict[str, float | None],
    rows: Sequence[Sequence[float]],
    converged: bool | None,
) -> dict[str, Any]:
    d: dict[str, Any] = {name: settings.get(name) for name in (*CRITERIA, *COEFFICIENTS)}
    for name in COEFFICIENTS:
        d[name] = d[name] or 0.0
    weights = d["energy_coefficient"] * n_images, d["force_coefficient"] * n_images
    goals = (d["energy_rmse"] or 0.0) ** 2, (d["force_rmse"] or 0.0) ** 2
    d["costfxngoal"] = weights[0] * goals[0] + weights[1] * goals[1]
    d["converged"] = converged
    forces = [row for row in rows if len(row) == 6]
    d["steps"] = [int(row[0]) for row in rows]
    d["costfxns"], d["es"], d["emrs"] = ([row[column] for row in rows] for column in (1, 2, 3))
    d["fs"], d["fmrs"] = ([row[column] for row in forces] for column in (4, 5))
    d["costfxnEs"] = [_part(weights[0] * row[2] ** 2, row[1]) for row in rows]
    d["costfxnFs"] = [_part(weights[1] * row[4] ** 2, row[1]) for row in forces]
    return d


def _part(term: float, loss: float) -> float:
    return term / loss if loss else 0.0


def _show(data: dict[str, Any], lines: Sequence[str]) -> None:
    for name, value in data.get("convergence", {}).items():
        if not isinstance(value, list):
            print(f"{name}: {value}")
    for line in filter(_ROW.match, lines):
        print(line)


def plot_convergence(data: dict[str, Any], plotfile: Any = "convergence.pdf") -> Any:
    """Draw how loss and errors fell in a training.

    Parameters
    ----------
    data : dict
        What `read_trainlog` returns.
    plotfile : str, open file or None
        Where to write the picture, on rank 0; None returns the figure instead.

    Raises
    ------
    InputError
        There is no row in the log's table.
    """
    from ampmpi.amp._pictures import keep, new_figure

    d = data.get("convergence", {})
    if not d.get("steps"):
        raise InputError("the log has no row of a training: there is nothing to draw")
    calls = range(len(d["steps"]))
    figure = new_figure(6.0, 8.0)
    axes, parts = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    for name, label, color, style in (
        ("es", "energy rmse", "tab:blue", "-"),
        ("emrs", "energy maxresid", "tab:blue", ":"),
        ("fs", "force rmse", "tab:green", "-"),
        ("fmrs", "force maxresid", "tab:green", ":"),
        ("costfxns", "loss function", "0.5", "-"),
    ):
        if d[name]:
            axes.semilogy(calls, d[name], color=color, linestyle=style, linewidth=2, label=label)
    for name in CRITERIA:
        if d[name]:
            color = "tab:blue" if name.startswith("energy") else "tab:green"
            style = "-" if name.endswith("rmse") else ":"
            axes.axhline(d[name], color=color, linestyle=style, alpha=0.5)
    for call in calls[1:]:
        if d["steps"][call] <= d["steps"][call - 1]:
            axes.axvline(call - 0.5, color="black", linestyle="--")
    axes.set_ylabel("error")
    axes.legend(loc="best", fontsize=9)
    bottom = [0.0] * len(calls)
    for name, color in (("costfxnEs", "tab:blue"), ("costfxnFs", "tab:green")):
        if d[name]:
            top = [low + part for low, part in zip(bottom, d[name], strict=True)]
            parts.fill_between(calls, bottom, top, color=color)
            bottom = top
    parts.set_ylim(0.0, 1.0)
    parts.set_ylabel("part of the loss")
    parts.set_xlabel("loss function call")
    return figure if plotfile is None else keep(figure, plotfile)
