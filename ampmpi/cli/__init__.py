"""The ``ampmpi`` command: one module per subcommand, imported when it is asked for."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "fingerprint": "Fingerprint images into a database, under mpirun or alone.",
    "info": "Say what a database holds.",
    "compress": "Move loose entries into the archive (also: amp-compress).",
    "check": "Read and verify a database; repair it when asked.",
    "merge": "Add the entries of databases to another one.",
    "uncompress": "Move archived entries back to loose files.",
    "train": "Train a potential, a sweep or a committee.",
    "evaluate": "Errors of calculators on images.",
    "plot": "Plot learning curves, parity and committee spread.",
    "jobscript": "Print a SLURM job script filled in for your files.",
    "doctor": "Check MPI, threads, caches and file systems.",
}


class LazyGroup(click.Group):
    """A click group that imports ``ampmpi.cli.NAME`` only for the command asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"ampmpi.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
