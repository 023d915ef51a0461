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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

_NUMBER = rb"-?\d{1,400}(?:\.\d{1,400})?(?:e[+-]?\d{1,3})?"
_FLOATS = re.compile(rb"(?:F%b\na){1,2048}+" % _NUMBER)
_FLOAT = re.compile(rb"%b" % _NUMBER)
_QUOTED = re.compile(rb"'([A-Za-z]{0,16})'|\"([A-Za-z]{0,16})\"")
_DTYPE = re.compile(r"[iu][1248]|f[248]|[US]\d{1,2}|b1")

_FROM_WRONG_DATA = (
    ArithmeticError,
    AttributeError,
    LookupError,
    struct.error,
    TypeError,
    ValueError,
)
_MARK = object()
_GLOBALS = {
    "numpy.core.multiarray.scalar": "scalar",
    "numpy.core.multiarray._reconstruct": "reconstruct",
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",
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
class Array:
    """A numpy array of one dimension, as plain numbers."""

    values: list[Any]


class Refused(Exception):
    """Something that no entry has."""


def _integer(text: bytes) -> int:
    if len(text) > 19 or not text.removeprefix(b"-").isdigit():
        raise Refused("what should be an integer is not one")
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
            raise Refused("it is cut off")
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
            raise Refused("it is cut off")
        return self.data[start : self.position]

    def unpack(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def until_mark(self) -> list[Any]:
        stack = self.stack
        start = len(stack) - 1
        while stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise Refused("a mark is missing")
        items = stack[start + 1 :]
        del stack[start:]
        return items

    def last(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise Refused("a list or dict is missing")
        return self.stack[-1]

    def sized(self, layout: str) -> bytes:
        """Take bytes whose number comes first."""
        return self.take(self.unpack(layout))

    def protocol(self) -> None:
        if self.position != 1 or self.take(1)[0] > 5:
            raise Refused("its protocol is unknown")

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
            raise Refused("what should be a number is not one")
        self.stack.append(float(text))

    def push_integer_text(self) -> None:
        text = self.line()
        self.stack.append(text == b"01" if text in (b"00", b"01") else _integer(text))

    def push_long1(self) -> None:
        size = self.unpack("<B")
        if size > 8:
            raise Refused("an integer is too large")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def push_quoted(self) -> None:
        match = _QUOTED.fullmatch(self.line())
        if match is None:
            raise Refused("what should be a chemical symbol is not one")
        self.stack.append((match[1] or match[2] or b"").decode())

    def make_tuple_of(self, size: int) -> None:
        items = tuple(self.stack[-size:])
        if len(items) != size or _MARK in items:
            raise Refused("a tuple is too short")
        self.stack[-size:] = [items]

    def make_dict(self) -> None:
        items = self.until_mark()
        self.stack.append({})
        self.fill(items)

    def fill(self, items: list[Any]) -> None:
        mapping = self.last(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.set(mapping, key, value)

    def set(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        if type(key) is not tuple or not all(type(part) in (int, str) for part in key):
            raise Refused("a key is not one that Amp writes")
        if key in mapping:
            raise Refused("a key occurs twice")
        mapping[key] = value

    def append(self) -> None:
        item = self.stack.pop()
        if item is _MARK:
            raise Refused("an item is missing")
        self.last(list).append(item)

    def appends(self) -> None:
        items = self.until_mark()
        self.last(list).extend(items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set(self.last(dict), key, value)

    def push_global(self) -> None:
        self.push_symbol(self.line().decode("ascii"), self.line().decode("ascii"))

    def push_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push_symbol(module, name)

    def push_symbol(self, module: Any, name: Any) -> None:
        if not type(module) is type(name) is str:
            raise Refused("it refers to what is no name")
        known = _GLOBALS.get(f"{module}.{name}".replace("numpy._core.", "numpy.core."))
        if known is None:
            raise Refused("it refers to code, which no entry does")
        self.stack.append(_Global(known))

    def reduce(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if type(called) is not _Global or type(arguments) is not tuple:
            raise Refused("it calls what no entry calls")
        self.stack.append(_call(called.name, arguments))

    def build(self) -> None:
        state, item = self.stack.pop(), self.stack[-1]
        if type(state) is not tuple:
            raise Refused("it builds what no entry has")
        if type(item) is _Dtype:
            if len(state) not in (8, 9) or state[1] not in ("<", ">", "|", "="):
                raise Refused("a data type is unknown")
            item.order = state[1]
        elif type(item) is Array and len(state) == 5:
            item.values = _array_values(state)
        else:
            raise Refused("it builds what no entry has")


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return what numpy's or codecs' function of that name would, in plain values."""
    if name == "dtype" and len(arguments) in (1, 3) and type(arguments[0]) is str:
        if not _DTYPE.fullmatch(arguments[0]):
            raise Refused("a data type is neither of numbers nor of symbols")
        return _Dtype(arguments[0])
    if name == "encode" and len(arguments) == 2 and arguments[1] == "latin1":
        return arguments[0].encode("latin1")
    if name == "scalar" and len(arguments) == 2 and type(arguments[1]) is bytes:
        dtype = arguments[0].numpy()
        if dtype.itemsize != len(arguments[1]):
            raise Refused("a number has a wrong length")
        if dtype.kind == "S":
            return arguments[1].decode("ascii").rstrip("\0")
        if dtype.kind == "U":
            # Not by numpy, which takes what is no character for granted.
            codec = "utf-32-be" if dtype.str[0] == ">" else "utf-32-le"
            return arguments[1].decode(codec).rstrip("\0")
        return np.frombuffer(arguments[1], dtype)[0].item()
    if name == "reconstruct" and arguments and arguments[0] == _Global("ndarray"):
        return Array([])
    raise Refused("it calls what no entry calls")


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
        raise Refused("an array is not one of numbers")
    values: list[Any] = np.frombuffer(content, layout).tolist()
    return values


def _refuse(reader: _Reader) -> None:
    raise Refused("it has an opcode that no entry has")


_Operation: TypeAlias = Callable[[_Reader], None]


def _push(make: Callable[[_Reader], Any]) -> _Operation:
    """Return the operation that puts on the stack what is made of the bytes that follow."""
    return lambda reader: reader.stack.append(make(reader))


def _keep(name: Callable[[_Reader], bytes | int]) -> _Operation:
    """Return the operation that gives the top of the stack a name in the memo."""

    def keep(reader: _Reader) -> None:
        reader.memo[name(reader)] = reader.stack[-1]

    return keep


def _unpacked(layout: str) -> Callable[[_Reader], Any]:
    return lambda reader: reader.unpack(layout)


def _text(layout: str) -> Callable[[_Reader], str]:
    return lambda reader: reader.sized(layout).decode()


_NAMED: dict[bytes, _Operation] = {
    b"(": _push(lambda _: _MARK),
    b"N": _push(lambda _: None),
    b"\x88": _push(lambda _: True),
    b"\x89": _push(lambda _: False),
    b")": _push(lambda _: ()),
    b"]": _push(lambda _: []),
    b"}": _push(lambda _: {}),
    b"F": _Reader.push_float_text,
    b"G": _push(_unpacked(">d")),
    b"I": _Reader.push_integer_text,
    b"L": _push(lambda reader: _integer(reader.line().removesuffix(b"L"))),
    b"J": _push(_unpacked("<i")),
    b"K": _push(_unpacked("<B")),
    b"M": _push(_unpacked("<H")),
    b"\x8a": _Reader.push_long1,
    b"V": _push(lambda reader: reader.line().decode("raw-unicode-escape")),
    b"S": _Reader.push_quoted,
    b"X": _push(_text("<I")),
    b"\x8c": _push(_text("<B")),
    b"B": _push(lambda reader: reader.sized("<I")),
    b"C": _push(lambda reader: reader.sized("<B")),
    b"t": _push(lambda reader: tuple(reader.until_mark())),
    b"\x85": lambda reader: reader.make_tuple_of(1),
    b"\x86": lambda reader: reader.make_tuple_of(2),
    b"\x87": lambda reader: reader.make_tuple_of(3),
    b"l": _push(_Reader.until_mark),
    b"d": _Reader.make_dict,
    b"a": _Reader.append,
    b"e": _Reader.appends,
    b"s": _Reader.set_item,
    b"u": lambda reader: reader.fill(reader.until_mark()),
    b"p": _keep(_Reader.line),
    b"q": _keep(_unpacked("<B")),
    b"r": _keep(_unpacked("<I")),
    b"\x94": _keep(lambda reader: len(reader.memo)),
    b"g": _push(lambda reader: reader.memo[reader.line()]),
    b"h": _push(lambda reader: reader.memo[reader.unpack("<B")]),
    b"j": _push(lambda reader: reader.memo[reader.unpack("<I")]),
    b"c": _Reader.push_global,
    b"\x93": _Reader.push_stack_global,
    b"R": _Reader.reduce,
    b"b": _Reader.build,
    b"\x80": _Reader.protocol,
    b"\x95": lambda reader: reader.unpack("<Q"),
}
_OPERATIONS = [_NAMED.get(bytes([code]), _refuse) for code in range(256)]


def load(data: bytes) -> Any:
    """Return what is in a pickle of any protocol; Refused if it is damaged or holds anything else.

    That is tuples, lists, dicts, `Array`, numbers and strings; lists may hold one
    another, or themselves. Nothing may come after the pickle.
    """
    try:
        return _Reader(data).run()
    except _FROM_WRONG_DATA as error:
        raise Refused("its pickle is damaged") from error
