"""The commands of ``ampmpi``."""

from __future__ import annotations

import importlib

import click

import ampmpi

COMMANDS = {
    "images": "Say what is in a set of images, and what is suspicious.",
    "fingerprint": "Fingerprint images into a database, under mpirun or alone.",
    "info": "Show what a database holds.",
    "compress": "Archive loose entries and packs (also: amp-compress).",
    "check": "Read and verify a database; repair it when asked.",
    "merge": "Add the entries of databases to another one.",
    "functions": "Make symmetry functions that fit a set of images.",
    "train": "Train a potential, a sweep or a committee.",
    "run": "Run a script written for Amp, also under mpirun.",
    "evaluate": "Measure the errors of calculators on images.",
    "select": "Choose the images to compute next.",
    "lammps": "Run an input script of LAMMPS with a potential.",
    "plot": "Plot learning curves, parity and committee spread.",
    "export": "Write a potential for n2p2, LAMMPS, OpenKIM or PROPhet.",
    "jobscript": "Print a SLURM job script for your files.",
    "doctor": "Check MPI, threads, caches and file systems.",
}


class LazyGroup(click.Group):
    """A click group that imports ``ampmpi.cli.NAME`` only for the command asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help text."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"ampmpi.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group("ampmpi", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ampmpi.__version__, prog_name="ampmpi")
def group() -> None:
    """Amp's fingerprint databases and potentials, as MPI-parallel batch jobs.

    Exit codes: 0 done; 1 unexpected error; 2 wrong option or input, nothing
    was done; 3 some images failed, all others are done; 4 a database cannot be
    used; 5 damaged and repaired; 6 locked by another process; 7 wrong launch; 8
    the training did not converge; 75 stopped early, start the command again to
    continue.
    """
