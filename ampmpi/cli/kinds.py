"""Kinds of commands and options that the command lines share."""

from __future__ import annotations

from typing import Any

import click

from ampmpi.parallel import launch


class OneProcess(click.Command):
    """A command that one process does; under ``mpirun`` the other ranks leave it alone."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, on the first rank only."""
        if launch.several_ranks() and not launch.speaks():
            return None
        return super().invoke(ctx)


class Prefix(click.ParamType[str]):
    """A label: what the names of a job's files start with, folders included."""

    name = "prefix"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is no start of a file's name."""
        if not value or value.endswith("/"):
            self.fail(f"{value!r} is no prefix of file names; give one such as amp", param, ctx)
        return value


PREFIX = Prefix()
