"""Kinds of commands and options that several command lines use."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from ampmpi.parallel import launch


class OneProcess(click.Command):
    """A command for one process; under ``mpirun`` all ranks but the first do nothing."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, on the first rank only."""
        if launch.several_ranks() and not launch.speaks():
            return None
        return super().invoke(ctx)


def complete_files(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete names of files: the ``shell_complete`` of arguments and options."""
    return [CompletionItem(incomplete, type="file")]


class Prefix(click.ParamType[str]):
    """A label: the beginning of the names of a job's files, folders included."""

    name = "prefix"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what cannot be the beginning of a file's name."""
        if not value or value.endswith("/"):
            self.fail(f"{value!r} is not a prefix of file names; give one such as amp", param, ctx)
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Let the shell complete names of files, whose beginning the label is."""
        return complete_files(ctx, param, incomplete)


PREFIX = Prefix()
