"""Kinds of commands and options that several command lines use."""

from __future__ import annotations

from typing import Any

import click

from ampmpi.parallel import launch


class OneProcess(click.Command):
    """A command for one process; under ``mpirun`` all ranks but the first do nothing."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, on the first rank only."""
        if launch.several_ranks() and not launch.speaks():
            return None
        return super().invoke(ctx)


class Prefix(click.ParamType[str]):
    """A label: the beginning of the names of a job's files, folders included."""

    name = "prefix"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what cannot be the beginning of a file's name."""
        if not value or value.endswith("/"):
            self.fail(f"{value!r} is not a prefix of file names; give one such as amp", param, ctx)
        return value


PREFIX = Prefix()
