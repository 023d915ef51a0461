"""Read the pickles that Amp writes without unpickling them.

An interpreter of the opcodes that occur in entries. It builds tuples, lists,
dicts, numbers and strings, and nothing else: there is no way from an opcode to
an import or a call. The few callables that numpy's scalars and arrays need are
symbols to it, and mean what is written here. What is taken as memory is bounded
by the length of the data; the memo is a dict, whatever number it is asked for.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.entries import Entry, Fingerprint, FingerprintPrimes
from ampmpi.errors import CorruptEntryError

_SYMBOL = re.compile(r"[A-Z][a-z]?")
_NUMBER = rb"-?\d{1,400}(?:\.\d{1,400})?(?:e[+-]?\d{1,3})?"
_FLOATS = re.compile(rb"(?:F%b\na){1,2048}+" % _NUMBER)
_FLOAT = re.compile(rb"%b" % _NUMBER)
_QUOTED = re.compile(rb"'([A-Za-z]{0,16})'|\"([A-Za-z]{0,16})\"")
_DTYPE = re.compile(r"[iu][1248]|f[248]|[US]\d{1,2}|b1")
_MAX_PADDING = 256
_KEY_TYPES = (int, str, int, str, int)

_MARK = object()
_GLOBALS = {
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy._core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
}


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass
class _Dtype:
    code: str
    order: str = "|"

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


@dataclass
class _Array:
    values: list[Any]


class _Refused(Exception):
    """Something that no entry has."""


def _integer(text: bytes) -> int:
    if len(text) > 19 or not text.removeprefix(b"-").isdigit():
        raise _Refused("an integer is none")
    return int(text)


class _Reader:
    """One pass over the opcodes of one pickle."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.stack: list[Any] = []
        # Opcodes of text name a slot by its digits, others by its number; none does both.
        self.memo: dict[bytes | int, Any] = {}

    def run(self) -> Any:
        data, operations = self.data, _OPERATIONS
        end = len(data) - 1
        while self.position < end:
            operation = operations[data[self.position]]
            self.position += 1
            operation(self)
        if data[self.position :] != b"." or len(self.stack) != 1:
            raise _Refused("it is cut off")
        return self.stack[0]

    def line(self) -> bytes:
        end = self.data.index(b"\n", self.position)
        text = self.data[self.position : end]
        self.position = end + 1
        return text

    def take(self, size: int) -> bytes:
        start = self.position
        self.position = start + size
        if size < 0 or self.position > len(self.data):
            raise _Refused("it is cut off")
        return self.data[start : self.position]

    def unpack(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def until_mark(self) -> list[Any]:
        stack = self.stack
        start = len(stack) - 1
        while stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise _Refused("a mark is missing")
        items = stack[start + 1 :]
        del stack[start:]
        return items

    def last(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise _Refused("a container is none")
        return self.stack[-1]

    def frame(self) -> None:
        self.unpack("<Q")

    def protocol(self) -> None:
        if self.position != 1 or self.take(1)[0] > 5:
            raise _Refused("its protocol is unknown")

    def mark(self) -> None:
        self.stack.append(_MARK)

    def push_none(self) -> None:
        self.stack.append(None)

    def push_float_text(self) -> None:
        start = self.position - 1
        run = _FLOATS.match(self.data, start)
        if run is not None:
            numbers = self.last(list)
            numbers.extend(map(float, run[0][1:-2].split(b"\naF")))
            self.position = run.end()
            return
        text = self.line()
        if not _FLOAT.fullmatch(text):
            raise _Refused("a number is none")
        self.stack.append(float(text))

    def push_float(self) -> None:
        self.stack.append(self.unpack(">d"))

    def push_integer_text(self) -> None:
        text = self.line()
        self.stack.append(text == b"01" if text in (b"00", b"01") else _integer(text))

    def push_long_text(self) -> None:
        self.stack.append(_integer(self.line().removesuffix(b"L")))

    def push_int4(self) -> None:
        self.stack.append(self.unpack("<i"))

    def push_int1(self) -> None:
        self.stack.append(self.unpack("<B"))

    def push_int2(self) -> None:
        self.stack.append(self.unpack("<H"))

    def push_long1(self) -> None:
        size = self.unpack("<B")
        if size > 8:
            raise _Refused("an integer is too large")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def push_true(self) -> None:
        self.stack.append(True)

    def push_false(self) -> None:
        self.stack.append(False)

    def push_text(self) -> None:
        self.stack.append(self.line().decode("raw-unicode-escape"))

    def push_quoted(self) -> None:
        match = _QUOTED.fullmatch(self.line())
        if match is None:
            raise _Refused("a string is none")
        self.stack.append((match[1] or match[2] or b"").decode())

    def push_unicode1(self) -> None:
        self.stack.append(self.take(self.unpack("<B")).decode())

    def push_unicode4(self) -> None:
        self.stack.append(self.take(self.unpack("<I")).decode())

    def push_bytes1(self) -> None:
        self.stack.append(self.take(self.unpack("<B")))

    def push_bytes4(self) -> None:
        self.stack.append(self.take(self.unpack("<I")))

    def make_tuple(self) -> None:
        self.stack.append(tuple(self.until_mark()))

    def make_tuple_of(self, size: int) -> None:
        items = tuple(self.stack[-size:])
        if len(items) != size or _MARK in items:
            raise _Refused("a tuple is too short")
        self.stack[-size:] = [items]

    def make_empty_tuple(self) -> None:
        self.stack.append(())

    def make_list(self) -> None:
        self.stack.append(self.until_mark())

    def make_empty_list(self) -> None:
        self.stack.append([])

    def make_dict(self) -> None:
        self.fill({}, self.until_mark())

    def make_empty_dict(self) -> None:
        self.stack.append({})

    def fill(self, mapping: dict[Any, Any], items: list[Any]) -> None:
        if len(items) % 2:
            raise _Refused("a key has no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.set(mapping, key, value)
        self.stack.append(mapping)

    def set(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        if type(key) is not tuple or not all(type(part) in (int, str) for part in key):
            raise _Refused("a key is none of Amp's")
        if key in mapping:
            raise _Refused("a key occurs twice")
        mapping[key] = value

    def append(self) -> None:
        item = self.stack.pop()
        if item is _MARK:
            raise _Refused("an item is missing")
        self.last(list).append(item)

    def appends(self) -> None:
        items = self.until_mark()
        self.last(list).extend(items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set(self.last(dict), key, value)

    def set_items(self) -> None:
        items = self.until_mark()
        self.last(dict)
        self.fill(self.stack.pop(), items)

    def put(self) -> None:
        self.memo[self.line()] = self.stack[-1]

    def put1(self) -> None:
        self.memo[self.unpack("<B")] = self.stack[-1]

    def put4(self) -> None:
        self.memo[self.unpack("<I")] = self.stack[-1]

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self) -> None:
        self.stack.append(self.memo[self.line()])

    def get1(self) -> None:
        self.stack.append(self.memo[self.unpack("<B")])

    def get4(self) -> None:
        self.stack.append(self.memo[self.unpack("<I")])

    def push_global(self) -> None:
        module, name = self.line().decode("ascii"), self.line().decode("ascii")
        self.push_symbol(module, name)

    def push_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push_symbol(module, name)

    def push_symbol(self, module: Any, name: Any) -> None:
        known = _GLOBALS.get((module, name)) if type(module) is type(name) is str else None
        if known is None:
            raise _Refused("it refers to code, which no entry does")
        self.stack.append(_Global(known))

    def reduce(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if type(called) is not _Global or type(arguments) is not tuple:
            raise _Refused("it calls what no entry calls")
        self.stack.append(_call(called.name, arguments))

    def build(self) -> None:
        state, item = self.stack.pop(), self.stack[-1]
        if type(state) is not tuple:
            raise _Refused("it builds what no entry has")
        if type(item) is _Dtype:
            if len(state) not in (8, 9) or state[1] not in ("<", ">", "|", "="):
                raise _Refused("a data type is unknown")
            item.order = state[1]
        elif type(item) is _Array and len(state) == 5:
            item.values = _array_values(state)
        else:
            raise _Refused("it builds what no entry has")


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return what numpy's or codecs' function of that name would, in plain values."""
    if name == "dtype" and len(arguments) in (1, 3) and type(arguments[0]) is str:
        if not _DTYPE.fullmatch(arguments[0]):
            raise _Refused("a data type is none of numbers or symbols")
        return _Dtype(arguments[0])
    if name == "encode" and len(arguments) == 2 and arguments[1] == "latin1":
        return arguments[0].encode("latin1")
    if name == "scalar" and len(arguments) == 2 and type(arguments[1]) is bytes:
        dtype = arguments[0].numpy()
        if dtype.itemsize != len(arguments[1]):
            raise _Refused("a number has a wrong length")
        if dtype.kind == "S":
            return arguments[1].decode("ascii").rstrip("\0")
        if dtype.kind == "U":
            # Not by numpy, which takes what is no character for granted.
            codec = "utf-32-be" if dtype.str[0] == ">" else "utf-32-le"
            return arguments[1].decode(codec).rstrip("\0")
        return np.frombuffer(arguments[1], dtype)[0].item()
    if name == "reconstruct" and arguments and arguments[0] == _Global("ndarray"):
        return _Array([])
    raise _Refused("it calls what no entry calls")


def _array_values(state: tuple[Any, ...]) -> list[Any]:
    _, shape, dtype, _, content = state
    layout = dtype.numpy()
    if (
        type(shape) is not tuple
        or len(shape) != 1
        or type(content) is not bytes
        or type(shape[0]) is not int
        or layout.kind not in "fiu"
        or shape[0] * layout.itemsize != len(content)
    ):
        raise _Refused("an array is none of numbers")
    values: list[Any] = np.frombuffer(content, layout).tolist()
    return values


def _refuse(reader: _Reader) -> None:
    raise _Refused("it has an opcode that no entry has")


_NAMED: dict[bytes, Callable[[_Reader], None]] = {
    b"(": _Reader.mark,
    b"N": _Reader.push_none,
    b"F": _Reader.push_float_text,
    b"G": _Reader.push_float,
    b"I": _Reader.push_integer_text,
    b"L": _Reader.push_long_text,
    b"J": _Reader.push_int4,
    b"K": _Reader.push_int1,
    b"M": _Reader.push_int2,
    b"\x8a": _Reader.push_long1,
    b"\x88": _Reader.push_true,
    b"\x89": _Reader.push_false,
    b"V": _Reader.push_text,
    b"S": _Reader.push_quoted,
    b"X": _Reader.push_unicode4,
    b"\x8c": _Reader.push_unicode1,
    b"B": _Reader.push_bytes4,
    b"C": _Reader.push_bytes1,
    b"t": _Reader.make_tuple,
    b")": _Reader.make_empty_tuple,
    b"\x85": lambda reader: reader.make_tuple_of(1),
    b"\x86": lambda reader: reader.make_tuple_of(2),
    b"\x87": lambda reader: reader.make_tuple_of(3),
    b"l": _Reader.make_list,
    b"]": _Reader.make_empty_list,
    b"d": _Reader.make_dict,
    b"}": _Reader.make_empty_dict,
    b"a": _Reader.append,
    b"e": _Reader.appends,
    b"s": _Reader.set_item,
    b"u": _Reader.set_items,
    b"p": _Reader.put,
    b"q": _Reader.put1,
    b"r": _Reader.put4,
    b"\x94": _Reader.memoize,
    b"g": _Reader.get,
    b"h": _Reader.get1,
    b"j": _Reader.get4,
    b"c": _Reader.push_global,
    b"\x93": _Reader.push_stack_global,
    b"R": _Reader.reduce,
    b"b": _Reader.build,
    b"\x80": _Reader.protocol,
    b"\x95": _Reader.frame,
}
_OPERATIONS = [_NAMED.get(bytes([code]), _refuse) for code in range(256)]


def read_pickle(data: bytes) -> Entry:
    """Return the entry in a pickle of any protocol, as Amp writes them.

    Parameters
    ----------
    data : bytes
        All of the pickle, and nothing after it.

    Raises
    ------
    CorruptEntryError
        The data are damaged, hold anything else than numbers and symbols, or
        have not the shape of an entry.
    """
    try:
        content = _Reader(data).run()
        if type(content) is list:
            return _fingerprint(content, len(data))
        if type(content) is dict:
            return _primes(content, len(data))
        raise _Refused("it is neither a list nor a dict")
    except _Refused as error:
        raise CorruptEntryError(f"it is no entry of Amp's: {error}") from None
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        struct.error,
        TypeError,
        ValueError,
    ) as error:
        raise CorruptEntryError("it is no entry of Amp's: its pickle is damaged") from error


def _matrix(rows: list[list[Any]], size: int) -> NDArray[np.float64]:
    """Return lists of numbers as the rows of one array, padded with zeros.

    A list may be named again and again at little cost, so that their lengths
    are added up before any of them is looked at.
    """
    widest = max(map(len, rows))
    if sum(map(len, rows)) > size or len(rows) * widest > _MAX_PADDING * size:
        raise _Refused("it has more numbers than its length can hold")
    if not set(map(type, chain.from_iterable(rows))) <= {float, int}:
        raise _Refused("a value is no number")
    if min(map(len, rows)) == widest:
        values = np.array(rows, np.float64)
    else:
        values = np.zeros((len(rows), widest))
        for index, row in enumerate(rows):
            values[index, : len(row)] = row
    if not np.isfinite(values).all():
        raise _Refused("a value is not finite")
    return values


def _row(value: Any) -> list[Any]:
    if type(value) is _Array:
        return value.values
    if type(value) is not list:
        raise _Refused("its values are no lists")
    return value


def _symbol(value: Any) -> str:
    if type(value) is not str or not _SYMBOL.fullmatch(value):
        raise _Refused("a chemical symbol is none")
    return value


def _consistent(symbols: Sequence[str], rows: list[Any]) -> dict[str, int]:
    """Return the number of features of each element, the same wherever it occurs."""
    n_features: dict[str, int] = {}
    for symbol, row in zip(symbols, rows, strict=True):
        if n_features.setdefault(symbol, len(row)) != len(row):
            raise _Refused(f"{symbol} has different numbers of features")
    return n_features


def _fingerprint(content: list[Any], size: int) -> Fingerprint:
    if not content:
        raise _Refused("it has no atoms")
    if not all(type(item) is tuple and len(item) == 2 for item in content):
        raise _Refused("its items are no pairs of symbol and values")
    symbols = [_symbol(symbol) for symbol, _ in content]
    rows = [_row(values) for _, values in content]
    n_features = _consistent(symbols, rows)
    values = _matrix(rows, size)
    return Fingerprint(tuple(symbols), n_features, values)


def _primes(content: dict[Any, Any], size: int) -> FingerprintPrimes:
    if not content:
        raise _Refused("it has no atoms")
    if any(tuple(map(type, key)) != _KEY_TYPES for key in content):
        raise _Refused("a key is none of Amp's")
    keys = sorted(content, key=itemgetter(2, 0, 4))
    m, symbols_m, n, symbols_n, direction = zip(*keys, strict=True)
    if min(min(m), min(n), min(direction)) < 0 or max(max(m), max(n)) >= size or max(direction) > 2:
        raise _Refused("an atom's number or a direction is out of range")
    symbol_of = dict(zip(m, symbols_m, strict=True))
    if any(
        symbol_of.setdefault(atom, symbol) != symbol
        for atom, symbol in {*zip(m, symbols_m, strict=True), *zip(n, symbols_n, strict=True)}
    ):
        raise _Refused("an atom has two symbols")
    n_atoms = len(symbol_of)
    triples = np.array((m, n, direction)).T
    pairs = triples[::3, :2]
    if (
        len(keys) % 3
        or not (triples.reshape(-1, 3, 3) == np.dstack(_tripled(pairs))).all()
        or max(symbol_of) != n_atoms - 1
        or np.count_nonzero(pairs[:, 0] == pairs[:, 1]) != n_atoms
    ):
        raise _Refused("its keys are not complete")
    symbols = tuple(_symbol(symbol_of[atom]) for atom in range(n_atoms))
    rows = [_row(content[key]) for key in keys]
    n_features = _consistent(symbols_n, rows)
    values = _matrix(rows, size)
    return FingerprintPrimes(
        symbols, n_features, pairs.astype(np.int32), values.reshape(len(pairs), 3, -1)
    )


def _tripled(pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Return what the keys of pairs must be: (n_pairs, 3) arrays of m, n and direction."""
    m, n = pairs.T
    ones = np.ones(3, np.int64)
    return np.outer(m, ones), np.outer(n, ones), np.outer(np.ones_like(m), np.arange(3))
