"""Words for people: amounts, sizes, and foreign text made safe to print."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


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


def plain(text: str, limit: int = 200) -> str:
    """Return text that came out of a file as one line that is safe to print.

    Characters that move a terminal's cursor, change its state, reverse the
    direction of writing or end a line become ``?``: the control characters of
    ASCII and ISO 8859, U+2028 and U+2029, and the bidirectional controls
    U+202A to U+202E and U+2066 to U+2069.

    Parameters
    ----------
    text : str
        The text, from anywhere.
    limit : int
        Length of the result at most; a longer text is cut and ends in ``…``.
    """
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return _CONTROLS.sub("?", text)
