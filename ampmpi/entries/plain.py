"""Values that are neither fingerprints nor primes, such as neighbour lists of a script's own.

They are kept as Amp keeps them, as pickles, of lists, tuples, numbers and text alone: what is
read with the reader of `pickles` can call nothing, so that nothing else is written either.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from ampmpi.entries.amp import entry_of
from ampmpi.entries.arrays import Entry, Fingerprint, FingerprintPrimes
from ampmpi.entries.pickles import Array, Refused, load
from ampmpi.errors import CorruptEntryError, InputError


def from_amp(value: Any) -> Entry:
    """Return a fingerprint or primes in Amp's form, lists or dicts, as arrays.

    Raises
    ------
    InputError
        It is neither.
    """
    if isinstance(value, Fingerprint | FingerprintPrimes):
        return value
    try:
        return entry_of(_builtins(value))
    except (Refused, ArithmeticError, TypeError, ValueError) as error:
        raise InputError(f"the value is neither a fingerprint nor primes: {error}") from error


def dump(value: Any) -> bytes:
    """Return a pickle that `read` and Amp read.

    Raises
    ------
    InputError
        The value holds something other than lists, tuples, arrays, numbers and text, or a dict
        with keys that are no tuples of numbers and text.
    """
    try:
        data = pickle.dumps(_builtins(value), protocol=2)
        load(data)
    except (Refused, TypeError, RecursionError) as error:
        raise InputError(
            f"the value cannot be kept, {error}: give lists, tuples, arrays, numbers and text"
        ) from error
    return data


def read(data: bytes) -> Any:
    """Return the value in a pickle; arrays as lists.

    Raises
    ------
    CorruptEntryError
        It is damaged, or holds something else.
    """
    try:
        return _builtins(load(data))
    except (Refused, RecursionError) as error:
        raise CorruptEntryError(f"it is not a value of plain numbers and text: {error}") from error


def _builtins(value: Any) -> Any:
    """Return a value with its arrays and numpy's numbers as Python's own."""
    if isinstance(value, Array):
        return value.values
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, tuple):
        return tuple(map(_builtins, value))
    if isinstance(value, list):
        return list(map(_builtins, value))
    if isinstance(value, dict):
        return {_builtins(key): _builtins(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"as it holds a {type(value).__name__}")
