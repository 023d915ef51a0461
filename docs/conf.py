"""Settings of the documentation: sphinx-build -W docs docs/_build/html."""

from __future__ import annotations

import importlib
from typing import ClassVar

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

import ampmpi

project = "ampmpi"
author = "The ampmpi developers"
copyright = author
version = release = ampmpi.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings have shapes and units, too
napoleon_google_docstring = False
napoleon_use_ivar = True  # shapes are no names to link to
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"ampmpi {release}"


class CommandHelp(Directive):
    """Show what a subcommand's ``--help`` prints."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        command: click.Command = importlib.import_module(f"ampmpi.cli.{name}").command
        context = click.Context(command, info_name=f"ampmpi {name}", max_content_width=90)
        text = command.get_help(context)
        block = nodes.literal_block(text, text)
        block["language"] = "text"
        return [block]


def setup(app: Sphinx) -> None:
    app.add_directive("command-help", CommandHelp)
