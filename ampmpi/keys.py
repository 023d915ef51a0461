"""Keys: the hashes of images, as text, as bytes, and as arrays of either.

A key is 32 of the digits ``0-9a-f``. Where there are many, each is held as the
16 bytes that these digits stand for: a tenth of the memory of a list of texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

DIGEST = np.dtype("S16")
"""One key as bytes."""

_KEY = re.compile(r"[0-9a-f]{32}")
_ROWS = 1 << 16


def is_key(name: object) -> bool:
    """Whether a file name or an archive member's name is the hash of an image.

    Any other name is left alone for ever and never listed.
    """
    return isinstance(name, str) and _KEY.fullmatch(name) is not None


def to_hex(digests: NDArray[np.bytes_]) -> list[str]:
    """Keys of 16-byte strings."""
    text = digests.tobytes().hex()
    return [text[start : start + 32] for start in range(0, len(text), 32)]


def digests_of(keys: Iterable[str]) -> NDArray[np.bytes_]:
    """Keys as 16-byte strings; every one must be a key."""
    return np.frombuffer(bytes.fromhex("".join(keys)), DIGEST)


def distinct(digests: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    """Return sorted 16-byte strings, each once."""
    new = np.ones(len(digests), dtype=bool)
    np.not_equal(digests[1:], digests[:-1], out=new[1:])
    return digests if new.all() else digests[new]


def union(*several: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    """Join 16-byte strings to one sorted array, each once."""
    joined = np.concatenate([digests_of([]), *several])
    joined.sort()
    return distinct(joined)


def member_of(digests: NDArray[np.bytes_], others: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """Return which digests are among others, which are sorted."""
    found = np.zeros(len(digests), dtype=bool)
    if len(others):
        for start in range(0, len(digests), _ROWS):
            some = digests[start : start + _ROWS]
            at = np.minimum(np.searchsorted(others, some), len(others) - 1)
            found[start : start + _ROWS] = others[at] == some
    return found
