"""Words for people on a command line: amounts, sizes, complaints."""

from __future__ import annotations

import click

from ampmpi.text import amount, size

__all__ = ["amount", "complain", "size"]


def complain(problem: Exception | str) -> None:
    """Write one line to standard error: an error's, or a warning."""
    kind = "error" if isinstance(problem, Exception) else "warning"
    click.echo(f"ampmpi: {kind}: {problem}", err=True)
