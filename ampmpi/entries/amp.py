"""The shape of an entry of Amp's: what is in its pickle, as arrays."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.entries.arrays import Entry, Fingerprint, FingerprintPrimes
from ampmpi.entries.pickles import Array, Refused, load
from ampmpi.errors import CorruptEntryError

_SYMBOL = re.compile(r"[A-Z][a-z]?")
_MAX_PADDING = 256
_KEY_TYPES = (int, str, int, str, int)


def read_pickle(data: bytes) -> Entry:
    """Return the entry in a pickle of any protocol, as Amp writes them.

    Raises CorruptEntryError if the data are damaged, hold anything else than numbers
    and symbols, have not the shape of an entry, or more than the pickle.
    """
    try:
        return _entry(load(data), len(data))
    except (Refused, ArithmeticError, TypeError, ValueError) as error:
        raise CorruptEntryError(f"it is not an entry that Amp writes: {error}") from error


def entry_of(content: Any) -> Entry:
    """Return the entry that lists or a dict in Amp's form are; `Refused` if they are none."""
    return _entry(content, sys.maxsize)


def _entry(content: Any, size: int) -> Entry:
    if type(content) is list:
        return _fingerprint(content, size)
    if type(content) is dict:
        return _primes(content, size)
    raise Refused("it is neither a list nor a dict")


def _matrix(rows: list[list[Any]], size: int) -> NDArray[np.float64]:
    """Return lists of numbers as the rows of one array, padded with zeros.

    A list may be named again and again at little cost, so that their lengths
    are added up before any of them is looked at.
    """
    widest = max(map(len, rows))
    if sum(map(len, rows)) > size or len(rows) * widest > _MAX_PADDING * size:
        raise Refused("it has more numbers than its length can hold")
    if not set(map(type, chain.from_iterable(rows))) <= {float, int}:
        raise Refused("a value is not a number")
    if min(map(len, rows)) == widest:
        values = np.array(rows, np.float64)
    else:
        values = np.zeros((len(rows), widest))
        for index, row in enumerate(rows):
            values[index, : len(row)] = row
    if not np.isfinite(values).all():
        raise Refused("a value is not finite")
    return values


def _row(value: Any) -> list[Any]:
    if type(value) is Array:
        return value.values
    if type(value) is not list:
        raise Refused("its values are not lists")
    return value


def _symbol(value: Any) -> str:
    if type(value) is not str or not _SYMBOL.fullmatch(value):
        raise Refused("what should be a chemical symbol is not one")
    return value


def _consistent(symbols: Sequence[str], rows: list[Any]) -> dict[str, int]:
    """Return the number of features of each element, the same wherever it occurs."""
    n_features: dict[str, int] = {}
    for symbol, row in zip(symbols, rows, strict=True):
        if n_features.setdefault(symbol, len(row)) != len(row):
            raise Refused(f"{symbol} has different numbers of features")
    return n_features


def _fingerprint(content: list[Any], size: int) -> Fingerprint:
    if not content:
        raise Refused("it has no atoms")
    if not all(type(item) is tuple and len(item) == 2 for item in content):
        raise Refused("its items are not pairs of symbol and values")
    symbols = tuple(_symbol(symbol) for symbol, _ in content)
    rows = [_row(values) for _, values in content]
    return Fingerprint(symbols, _consistent(symbols, rows), _matrix(rows, size))


def _primes(content: dict[Any, Any], size: int) -> FingerprintPrimes:
    if not content:
        raise Refused("it has no atoms")
    if any(tuple(map(type, key)) != _KEY_TYPES for key in content):
        raise Refused("a key is not one that Amp writes")
    keys = sorted(content, key=itemgetter(2, 0, 4))
    m, symbols_m, n, symbols_n, direction = zip(*keys, strict=True)
    if min(min(m), min(n), min(direction)) < 0 or max(max(m), max(n)) >= size or max(direction) > 2:
        raise Refused("an atom's number or a direction is out of range")
    symbol_of = dict(zip(m, symbols_m, strict=True))
    if any(
        symbol_of.setdefault(atom, symbol) != symbol
        for atom, symbol in {*zip(m, symbols_m, strict=True), *zip(n, symbols_n, strict=True)}
    ):
        raise Refused("an atom has two symbols")
    n_atoms = len(symbol_of)
    triples = np.array((m, n, direction)).T
    pairs = triples[::3, :2]
    if (
        len(keys) % 3
        or (triples[:, :2] != np.repeat(pairs, 3, axis=0)).any()
        or (triples[:, 2] != np.tile(range(3), len(pairs))).any()
        or max(symbol_of) != n_atoms - 1
        or np.count_nonzero(pairs[:, 0] == pairs[:, 1]) != n_atoms
    ):
        raise Refused("its keys are not complete")
    symbols = tuple(_symbol(symbol_of[atom]) for atom in range(n_atoms))
    rows = [_row(content[key]) for key in keys]
    n_features = _consistent(symbols_n, rows)
    values = _matrix(rows, size)
    return FingerprintPrimes(
        symbols, n_features, pairs.astype(np.int32), values.reshape(len(pairs), 3, -1)
    )
