"""Words for people: amounts, sizes, complaints."""

from __future__ import annotations

import click


def amount(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun, which takes an s unless `many` is given."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def size(n_bytes: int) -> str:
    """Return a number of bytes with three digits and a decimal unit."""
    value, units = float(n_bytes), ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{n_bytes} bytes" if units[0] == "bytes" else f"{value:.3g} {units[0]}"


def complain(problem: Exception | str) -> None:
    """Write one line to standard error: an error's, or a warning."""
    kind = "error" if isinstance(problem, Exception) else "warning"
    click.echo(f"ampmpi: {kind}: {problem}", err=True)
