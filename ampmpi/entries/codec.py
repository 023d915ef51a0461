r"""Entries as bytes: pickles that Amp loads, laid out so that they are arrays.

An entry is a protocol-2 pickle of plain builtins, equal to Amp's own object,
followed by a trailer that ``pickle.load`` does not read::

    80 02                                       protocol 2
    X <length> 'ampmpi-entry 1 KIND N El:F:C …' 0      described, and dropped
    X <length> 'El' q <slot> 0                  each symbol, kept in a slot
    fingerprint:  ] (  atom …  e .
        atom      h <slot> ] ( (G <float64>)×F e 86
    primes:       } (  record …  u .
        record    ( J <m> h <slot m> J <n> h <slot n> K <d> t
                  ] ( (G <float64>)×F e
    'ampmpi\r\n' <length, uint64> <CRC-32, uint32>     of everything before

N is the number of atoms; an element El has F features, and C atoms (or, for
primes, C pairs centred on it). The floats are big-endian, all integers are
little-endian. Records of primes come by the number of features of their
centre, fewest first, then by centre n, moved atom m and direction d.

A list of floats has a fixed stride, so that all of an entry is written and read
as numpy structured arrays. An entry is believed only if its CRC is right and
encoding what was read gives the same bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ampmpi.entries.amp import read_pickle
from ampmpi.entries.arrays import Entry, Fingerprint, FingerprintPrimes, Kind
from ampmpi.entries.checksum import crc32
from ampmpi.errors import CorruptEntryError, ImageError

NAME = b"ampmpi-entry"
MAGIC = b"ampmpi\r\n"
_TRAILER = struct.Struct("<8sQI")
_HEADER = re.compile(
    rb"\x80\x02X....ampmpi-entry 1 (?P<kind>fingerprint|primes) (?P<atoms>[1-9]\d{0,9})"
    rb"(?P<elements>(?: [A-Z][a-z]?:\d{1,9}:[1-9]\d{0,11}){1,255})0",
    re.DOTALL,
)
_SYMBOL = re.compile(r"[A-Z][a-z]?")
_MAX_PADDING = 256
_PAIRS = 1024  # are encoded at a time


class _Element(NamedTuple):
    symbol: str
    n_features: int
    rows: int


_Elements: TypeAlias = tuple[_Element, ...]


def encode(entry: Entry) -> bytes:
    """Return an entry as a pickle that Amp reads, followed by a trailer.

    Equal entries give equal bytes.

    Raises
    ------
    ImageError
        A value is not finite.
    ValueError
        The arrays do not fit together.
    """
    _check(entry)
    made = _encode_fingerprint(entry) if isinstance(entry, Fingerprint) else _encode_primes(entry)
    parts = list(made)
    length = checksum = 0
    for part in parts:
        length += len(part)
        checksum = crc32(part, checksum)
    return b"".join((*parts, _TRAILER.pack(MAGIC, length, checksum)))


def decode(data: bytes, n_atoms: int | None = None, kind: Kind = "other") -> Entry:
    """Return the entry that `encode` or Amp wrote; no code in it is run.

    Parameters
    ----------
    data : bytes
        All of the entry.
    n_atoms : int, optional
        The number of atoms that it must have.
    kind : str
        What it must be: ``"fingerprints"`` or ``"primes"``; any other word
        allows both.

    Raises
    ------
    CorruptEntryError
        The data are damaged, or no entry of this kind and number of atoms.
    """
    entry = _decode_own(data) if _is_own(data) else read_pickle(data)
    require_kind(entry, kind)
    if n_atoms is not None and len(entry.symbols) != n_atoms:
        raise CorruptEntryError(f"it has {len(entry.symbols)} atoms where the image has {n_atoms}")
    return entry


def verify(data: bytes) -> None:
    """Check that data are a whole entry: by the trailer, or by reading what Amp wrote.

    Raises CorruptEntryError as `decode` does.
    """
    if _is_own(data):
        _header(_checked_pickle(data))
    else:
        read_pickle(data)


def judge(data: bytes, kind: Kind) -> None:
    """Raise CorruptEntryError unless an entry is whole.

    In databases of other kinds, only what says that it is one of this package's
    entries is judged.
    """
    if kind != "other" or not data or MAGIC in data[-64:]:
        verify(data)


def require_kind(entry: Entry, kind: Kind) -> None:
    """Raise CorruptEntryError unless an entry is of the kind that a database holds."""
    is_primes = isinstance(entry, FingerprintPrimes)
    if kind != "other" and is_primes != (kind == "primes"):
        found = "fingerprint primes" if is_primes else "a fingerprint"
        wanted = "fingerprints" if is_primes else "fingerprint primes"
        raise CorruptEntryError(f"it is {found} in a database of {wanted}")


def _is_own(data: bytes) -> bool:
    """Whether data are of this layout, be they ever so damaged at one of their ends."""
    return MAGIC in data[-64:] or NAME in data[:128]


def _checked_pickle(data: bytes) -> memoryview:
    """Return what comes before a sound trailer."""
    length = max(len(data) - _TRAILER.size, 0)
    magic, stated, checksum = _TRAILER.unpack(data[length:].ljust(_TRAILER.size))
    if magic != MAGIC:
        raise CorruptEntryError("it is cut off: its trailer is missing")
    pickled = memoryview(data)[:length]
    if stated != length or crc32(pickled) != checksum:
        raise CorruptEntryError("its checksum is wrong")
    return pickled


def _header(pickled: memoryview) -> re.Match[bytes]:
    match = _HEADER.match(pickled)
    if match is None:
        raise CorruptEntryError("its header is not one that this version writes")
    return match


class _Described(NamedTuple):
    """What a header says: `head` is all before the first atom or record, `size` counts those."""

    n_atoms: int
    elements: _Elements
    head: bytes
    size: int


@lru_cache(maxsize=64)
def _described(kind: bytes, atoms: bytes, words: bytes) -> _Described:
    """Return what a header says; CorruptEntryError if no entry is like that."""
    n_atoms = int(atoms)
    elements = tuple(
        _Element(symbol.decode(), int(n_features), int(count))
        for symbol, n_features, count in (word.split(b":") for word in words.split())
    )
    symbols = [e.symbol for e in elements]
    record_size, repeats = (_pair_size, 3) if kind == b"primes" else (_atom_size, 1)
    size = sum(e.rows * repeats * record_size(e.n_features) for e in elements)
    count = sum(e.rows for e in elements)
    if (
        symbols != sorted(set(symbols))
        or (count < n_atoms if kind == b"primes" else count != n_atoms)
        or count * max(e.n_features for e in elements) > _MAX_PADDING * size
    ):
        raise CorruptEntryError("its header contradicts itself")
    return _Described(n_atoms, elements, _head(kind.decode(), n_atoms, elements), size)


def _decode_own(data: bytes) -> Entry:
    pickled = _checked_pickle(data)
    header = _header(pickled)
    kind = header["kind"]
    n_atoms, elements, head, size = _described(kind, header["atoms"], header["elements"])
    if len(pickled) != len(head) + size + 2:  # before any memory is taken
        raise CorruptEntryError("its length is not that of its header")
    body = np.frombuffer(pickled, np.uint8, size, len(head))
    entry: Entry
    if kind == b"primes":
        entry = _decode_primes(body, n_atoms, elements)
        exact = _is_made_of(pickled, _encode_primes(entry))
    else:
        entry = _decode_fingerprint(body, n_atoms, elements)
        exact = data.startswith(head) and data.startswith(b"e.", len(head) + size)
    if not exact or not np.isfinite(entry.values).all():
        raise CorruptEntryError("its layout is not exact")
    return entry


def _is_made_of(pickled: memoryview, parts: Iterable[memoryview]) -> bool:
    """Whether bytes are these parts, one after the other."""
    data, position = np.frombuffer(pickled, np.uint8), 0
    for part in parts:
        piece = data[position : position + len(part)]
        if not np.array_equal(piece, np.frombuffer(part, np.uint8)):
            return False
        position += len(part)
    return position == len(data)


@lru_cache(maxsize=64)
def _head(kind: str, n_atoms: int, elements: _Elements) -> bytes:
    """Return the bytes before the first atom or record."""
    words = "".join(f" {e.symbol}:{e.n_features}:{e.rows}" for e in elements)
    parts = [b"\x80\x02", _unicode(f"{NAME.decode()} 1 {kind} {n_atoms}{words}"), b"0"]
    for slot, element in enumerate(elements):
        parts += [_unicode(element.symbol), b"q", bytes([slot]), b"0"]
    parts.append(b"}(" if kind == "primes" else b"](")
    return b"".join(parts)


def _unicode(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode("ascii")


_FLOAT = np.dtype([("opcode", "u1"), ("value", ">f8")])


def _atom_size(n_features: int) -> int:
    return len(b"h\0](e\x86") + _FLOAT.itemsize * n_features


def _pair_size(n_features: int) -> int:
    return len(b"(J\0\0\0\0h\0J\0\0\0\0h\0K\0t](e") + _FLOAT.itemsize * n_features


@lru_cache(maxsize=64)
def _atom(n_features: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the constant bytes of one atom of a fingerprint, and a mask that keeps them."""
    template = b"h\0](" + b"G\0\0\0\0\0\0\0\0" * n_features + b"e\x86"
    constant = b"\xff\0\xff\xff" + b"\xff\0\0\0\0\0\0\0\0" * n_features + b"\xff\xff"
    return np.frombuffer(template, np.uint8), np.frombuffer(constant, np.uint8)


def _floats(block: NDArray[np.uint8], n_features: int) -> NDArray[np.float64]:
    """Return the values that lie in the bytes of atoms, one a row, as a view."""
    strides = (block.shape[1], _FLOAT.itemsize)
    return np.ndarray((len(block), n_features), ">f8", block, 5, strides)


@lru_cache(maxsize=64)
def _pair(n_features: int) -> tuple[np.dtype[np.void], NDArray[np.uint8]]:
    """Return the layout of one record, and the constant bytes of the three of one pair."""
    key = b"(J\0\0\0\0h\0J\0\0\0\0h\0K%ct]("
    template = b"".join(key % d + b"G\0\0\0\0\0\0\0\0" * n_features + b"e" for d in range(3))
    record = np.dtype(
        {
            "names": ["m", "slot_m", "n", "slot_n", "floats"],
            "formats": ["<i4", "u1", "<i4", "u1", (_FLOAT, (n_features,))],
            "offsets": [2, 7, 9, 14, 20],
            "itemsize": len(template) // 3,
        }
    )
    return record, np.frombuffer(template, np.uint8)


def _check(entry: Entry) -> None:
    """Check that the arrays of an entry fit together, and that all values are finite."""
    elements, values = set(entry.symbols), entry.values
    if not elements or not all(_SYMBOL.fullmatch(symbol) for symbol in elements):
        raise ValueError("an entry has no atoms, or what should be a symbol is not one")
    pairs = None if isinstance(entry, Fingerprint) else entry.pairs
    rows = (len(entry.symbols),) if pairs is None else (len(pairs), 3)
    widest = max(entry.n_features[symbol] for symbol in elements)
    if values.shape[:-1] != rows or values.shape[-1] < widest:
        raise ValueError("the values of an entry do not fit its atoms, pairs and features")
    if pairs is not None and not _is_canonical(pairs, len(entry.symbols)):
        raise ValueError("the pairs of fingerprint primes are not sorted, or not complete")
    if not np.isfinite(values).all():
        raise ImageError("a value of the fingerprint is not finite")


def _is_canonical(pairs: NDArray[np.int32], n_atoms: int) -> bool:
    """Whether pairs are sorted by centre, then moved atom, each once, with every (n, n)."""
    if pairs.shape[1:] != (2,) or not len(pairs):
        return False
    m, n = pairs.T.astype(np.int64)
    if min(m.min(), n.min()) < 0 or max(m.max(), n.max()) >= n_atoms:
        return False
    order = n * n_atoms + m
    return bool((order[1:] > order[:-1]).all()) and np.count_nonzero(m == n) == n_atoms


def _slots(entry: Entry) -> tuple[list[str], NDArray[np.uint8]]:
    """Return the sorted elements of an entry, and where in them each atom's is."""
    symbols = sorted(set(entry.symbols))
    slot_of = {symbol: slot for slot, symbol in enumerate(symbols)}
    return symbols, np.array([slot_of[symbol] for symbol in entry.symbols], np.uint8)


def _elements(entry: Entry, centres: NDArray[np.uint8], symbols: list[str]) -> _Elements:
    """Describe the elements of the atoms, or of the centres of pairs, whose slots are given."""
    slots = centres.tobytes()
    return tuple(
        [
            _Element(symbol, int(entry.n_features[symbol]), slots.count(slot))
            for slot, symbol in enumerate(symbols)
        ]
    )


def _encode_fingerprint(entry: Fingerprint) -> list[memoryview]:
    symbols, slots = _slots(entry)
    elements = _elements(entry, slots, symbols)
    numbers = {e.n_features for e in elements}
    if len(numbers) == 1:
        body = _write_atoms(slots, entry.values[:, : max(numbers)]).reshape(-1)
    else:
        sizes = np.array([_atom_size(e.n_features) for e in elements])[slots]
        ends = np.cumsum(sizes)
        body = np.empty(ends[-1], np.uint8)
        for number, atoms in _groups(elements, slots):
            block = _write_atoms(slots[atoms], entry.values[atoms, :number])
            body[(ends - sizes)[atoms, None] + np.arange(block.shape[1])] = block
    head = _head("fingerprint", len(slots), elements)
    return [memoryview(head), body.data, memoryview(b"e.")]


def _write_atoms(slots: NDArray[np.uint8], values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the bytes of atoms that have one number of features, one atom a row."""
    n_features = values.shape[1]
    block = np.empty((len(values), _atom_size(n_features)), np.uint8)
    block[:] = _atom(n_features)[0]
    block[:, 1] = slots
    _floats(block, n_features)[:] = values
    return block


def _decode_fingerprint(body: NDArray[np.uint8], n_atoms: int, elements: _Elements) -> Fingerprint:
    numbers = {e.n_features for e in elements}
    if len(numbers) == 1:
        values = _read_atoms(body, *numbers)
        slots = body[1 :: len(body) // n_atoms]
    else:
        values = np.zeros((n_atoms, max(numbers)))
        starts, slots = _find_atoms(body, n_atoms, elements)
        for number, atoms in _groups(elements, slots):
            block = body[starts[atoms, None] + np.arange(_atom_size(number))]
            values[atoms, :number] = _read_atoms(block, number)
    order = slots.tobytes()
    if any(order.count(slot) != e.rows for slot, e in enumerate(elements)):
        raise CorruptEntryError("its elements are not those of its header")
    return Fingerprint(
        symbols=tuple([elements[slot].symbol for slot in order]),
        n_features={e.symbol: e.n_features for e in elements},
        values=values,
    )


def _find_atoms(
    body: NDArray[np.uint8], n_atoms: int, elements: _Elements
) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Return where each atom begins, and the slot of its element."""
    sizes = [_atom_size(e.n_features) for e in elements]
    found = []
    position, size, buffer = 0, len(body), body.data
    for _ in range(n_atoms):
        slot = buffer[position + 1] if position + 1 < size else len(elements)
        if slot >= len(elements):
            raise CorruptEntryError("an atom has a symbol that its header lacks")
        found.append((position, slot))
        position += sizes[slot]
    if position != size:
        raise CorruptEntryError("its length is not that of its header")
    starts, slots = np.array(found).T
    return starts, slots.astype(np.uint8)


def _read_atoms(block: NDArray[np.uint8], n_features: int) -> NDArray[np.float64]:
    """Return the values of atoms, one a row, whose constant bytes are as they must be."""
    template, constant = _atom(n_features)
    block = block.reshape(-1, len(template))
    if (block & constant).tobytes() != (template & constant).tobytes() * len(block):
        raise CorruptEntryError("its layout is not exact")
    return _floats(block, n_features).astype(np.float64)


def _groups(elements: _Elements, slots: NDArray[np.uint8]) -> list[tuple[int, NDArray[np.intp]]]:
    """Return each number of features, fewest first, and the rows that have it."""
    n_features = np.array([e.n_features for e in elements])
    return [
        (number, np.flatnonzero((n_features == number)[slots]))
        for number in sorted(set(n_features.tolist()))
    ]


def _encode_primes(entry: FingerprintPrimes) -> Iterator[memoryview]:
    """Yield the bytes of an entry, those of some pairs at a time."""
    symbols, slots = _slots(entry)
    m, n = entry.pairs.T
    elements = _elements(entry, slots[n], symbols)
    groups = _groups(elements, slots[n])
    yield memoryview(_head("primes", len(slots), elements))
    for n_features, rows in groups:
        dtype, template = _pair(n_features)
        for start in range(0, len(rows), _PAIRS):
            part = slice(start, start + _PAIRS)
            chosen: NDArray[np.intp] | slice = rows[part] if len(groups) > 1 else part
            block = np.empty((len(rows[part]), len(template)), np.uint8)
            block[:] = template
            record = block.view(dtype)
            record["m"] = m[chosen, None]
            record["slot_m"] = slots[m[chosen], None]
            record["n"] = n[chosen, None]
            record["slot_n"] = slots[n[chosen], None]
            record["floats"]["value"] = entry.values[chosen, :, :n_features]
            yield block.reshape(-1).data
    yield memoryview(b"u.")


def _decode_primes(body: NDArray[np.uint8], n_atoms: int, elements: _Elements) -> FingerprintPrimes:
    counts: dict[int, int] = {}
    for e in elements:
        counts[e.n_features] = counts.get(e.n_features, 0) + e.rows
    n_pairs = sum(counts.values())
    pairs = np.empty((n_pairs, 2), np.int32)
    slots = np.empty(n_pairs, np.uint8)
    values = np.zeros((n_pairs, 3, max(counts)))
    start = row = 0
    for number in sorted(counts):
        rows, dtype = slice(row, row + counts[number]), _pair(number)[0]
        size = counts[number] * dtype.itemsize * 3
        record = body[start : start + size].view(dtype).reshape(-1, 3)
        pairs[rows, 0] = record["m"][:, 0]
        pairs[rows, 1] = record["n"][:, 0]
        slots[rows] = record["slot_n"][:, 0]
        values[rows, :, :number] = record["floats"]["value"]
        start, row = start + size, row + counts[number]
    if len(counts) > 1:
        order = np.lexsort((pairs[:, 0], pairs[:, 1]))
        pairs, slots, values = pairs[order], slots[order], values[order]
    if not _is_canonical(pairs, n_atoms) or slots.max() >= len(elements):
        raise CorruptEntryError("its pairs are not sorted, or not complete")
    names = [e.symbol for e in elements]
    return FingerprintPrimes(
        symbols=tuple(names[slot] for slot in slots[pairs[:, 0] == pairs[:, 1]].tolist()),
        n_features={e.symbol: e.n_features for e in elements},
        pairs=pairs,
        values=values,
    )
