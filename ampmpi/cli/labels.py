"""Options about what is in files of images, for the commands that read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ampmpi.images.reading import Reading

KEYS = [
    click.option("--energy-key", metavar="NAME", help="Name of the energies in the images."),
    click.option("--forces-key", metavar="NAME", help="Name of the forces."),
    click.option("--stress-key", metavar="NAME", help="Name of the stresses."),
]

units_option = click.option(
    "--units", metavar="E,L", help="Units of the files: eV,A or Hartree,Bohr or atomic …"
)
images_format_option = click.option(
    "--images-format", "format", metavar="NAME", help="ASE's name of the images' format."
)
format_option = click.option(
    "--images-format", "--format", "format", metavar="NAME",
    help="ASE's name of the images' format.",
)  # fmt: skip
"""The same with its short name, which in `ampmpi plot` is that of the pictures' format."""


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how files are to be read."""
    return units_option(format_option(command))


def key_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name labels."""
    for option in reversed(KEYS):
        command = option(command)
    return command


def label_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name labels, and those that say how files are to be read."""
    return key_options(reading_options(command))


def reading_of(given: Mapping[str, Any]) -> Reading:
    """Return what these options say; `InputError` where one is wrong."""
    from ampmpi.images.labels import LabelKeys
    from ampmpi.images.reading import Reading

    keys = LabelKeys(given.get("energy_key"), given.get("forces_key"), given.get("stress_key"))
    return Reading.of(given["format"], given["units"], keys)
