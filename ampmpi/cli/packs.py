"""The options of packs, which several commands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from ampmpi.database.packs import SECONDS, SIZE

Function = Callable[..., Any]


def _with_packs(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Refuse the limits of packs where no packs are asked for; --packs, being eager, is known."""
    assert parameter.name is not None
    given = context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT
    if given and not context.params["packs"]:
        name = parameter.opts[0]
        raise click.UsageError(f"{name} needs --packs: give both, or leave {name} out.", context)
    return value


def pack_options(function: Function) -> Function:
    """Add ``--packs``, ``--pack-size`` and ``--pack-seconds`` to a command."""
    positive = click.FloatRange(min=0.0, min_open=True)
    options = (
        click.option("--packs", is_flag=True, is_eager=True,
                     help="Append entries to packs, a few files a rank, not to a file each."),
        click.option("--pack-size", default=SIZE, show_default=True, type=positive,
                     callback=_with_packs, metavar="MB",
                     help="Begin another pack after so many megabytes."),
        click.option("--pack-seconds", default=SECONDS, show_default=True, type=positive,
                     callback=_with_packs, metavar="S",
                     help="Begin another pack after so long."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function
