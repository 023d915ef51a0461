"""Words for people: amounts, sizes, and foreign text made safe to print."""

from __future__ import annotations

import unicodedata

_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


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


def figures(value: float, digits: int) -> str:
    """Return a number with so many significant digits, without an exponent if it is large."""
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e9 else f"{value:.{digits}g}"


def plain(text: str, limit: int = 200) -> str:
    """Return text that came out of a file as one line that is safe to print.

    Characters that move a terminal's cursor, change its state, reverse the
    direction of writing or end a line become ``?``: those of the Unicode
    categories Cc, Cf, Cs, Zl and Zp.

    Parameters
    ----------
    text : str
        The text, from anywhere.
    limit : int
        Length of the result at most; a longer text is cut and ends in ``…``.
    """
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return "".join("?" if unicodedata.category(c) in _UNSAFE else c for c in text)
