"""Entries as bytes, and back."""

import pickle
import struct
import zlib

import numpy as np
import pytest
from entry_samples import limited_memory, make_entries

from ampmpi.entries import Fingerprint, FingerprintPrimes
from ampmpi.entries.codec import MAGIC, decode, encode, verify
from ampmpi.errors import CorruptEntryError, ImageError

SHAPES = {
    "one element": (6, {"Cu": 5}, 3),
    "two elements, alike": (6, {"Cu": 5, "Pt": 5}, 3),
    "two elements, unlike": (7, {"Cu": 5, "Pt": 2}, 3),
    "three elements, two alike": (9, {"Cu": 5, "H": 2, "Pt": 5}, 3),
    "no features": (3, {"H": 0}, 2),
    "one element without features": (4, {"H": 0, "O": 3}, 2),
    "one atom": (1, {"H": 4}, 0),
    "no neighbours": (4, {"H": 4, "O": 4}, 0),
    "one feature": (2, {"H": 1}, 1),
    "many elements": (118, {a + b: 3 for a in "ABCDEFGHIJ" for b in "abcdefghijkl"}, 2),
}


@pytest.fixture(params=SHAPES, ids=str)
def entries(request):
    n_atoms, n_features, n_neighbors = SHAPES[request.param]
    return make_entries(1, n_atoms, n_features, n_neighbors)


def reseal(pickled):
    """Return bytes with a sound trailer, whatever they are."""
    return pickled + struct.pack("<8sQI", MAGIC, len(pickled), zlib.crc32(pickled))


def test_pickle_gives_amps_object(entries):
    for entry in entries:
        loaded = pickle.loads(encode(entry))
        assert loaded == entry.to_amp()
        assert type(loaded) is type(entry.to_amp())
        assert plain_types(loaded) <= {int, str, float, tuple, list, dict}


def plain_types(value):
    if isinstance(value, dict):
        return {dict}.union(*(plain_types(item) for pair in value.items() for item in pair))
    if isinstance(value, (list, tuple)):
        return {type(value)}.union(*map(plain_types, value))
    return {type(value)}


def test_decode_gives_the_entry(entries):
    for entry in entries:
        data = encode(entry)
        verify(data)
        decoded = decode(data)
        assert decoded == entry
        assert decoded.values.dtype == np.float64
        assert encode(decoded) == data


def test_atoms_beyond_two_bytes():
    for entry in make_entries(2, 66_000, {"C": 1}, 0):
        decoded = decode(encode(entry))
        assert decoded == entry
    assert decoded.pairs[-1].tolist() == [65_999, 65_999]


def test_bits_of_floats_survive():
    values = np.array([[0.0, -0.0, 5e-324, np.finfo(float).max, -np.finfo(float).tiny, 0.1]])
    entry = decode(encode(Fingerprint(("H",), {"H": 6}, values)))
    assert entry.values.tobytes() == values.tobytes()


def test_arrays_of_other_memory_order():
    fingerprint, primes = make_entries(3, 6, {"Cu": 4, "Pt": 2})
    turned = Fingerprint(
        fingerprint.symbols, fingerprint.n_features, np.asfortranarray(fingerprint.values)
    )
    assert encode(turned) == encode(fingerprint)
    turned = FingerprintPrimes(
        primes.symbols, primes.n_features, primes.pairs, np.asfortranarray(primes.values)
    )
    assert encode(turned) == encode(primes)


def test_padding_and_unused_elements_do_not_count():
    fingerprint, _ = make_entries(4, 5, {"Cu": 3})
    wide = Fingerprint(
        fingerprint.symbols, {"Cu": 3, "Pt": 9}, np.pad(fingerprint.values, ((0, 0), (0, 6)))
    )
    assert encode(wide) == encode(fingerprint)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(value):
    fingerprint, primes = make_entries(5, 3, {"H": 2})
    for entry in (fingerprint, primes):
        entry.values.flat[1] = value
        with pytest.raises(ImageError, match="not finite"):
            encode(entry)


def test_arrays_that_do_not_fit_are_refused():
    fingerprint, primes = make_entries(6, 3, {"H": 2})
    nothing = Fingerprint((), {}, np.zeros((0, 0)))
    no_symbol = Fingerprint(("h2",), {"h2": 1}, np.zeros((1, 1)))
    narrow = Fingerprint(fingerprint.symbols, {"H": 3}, fingerprint.values)
    turned = FingerprintPrimes(
        primes.symbols, primes.n_features, primes.pairs[::-1], primes.values[::-1]
    )
    lacking = FingerprintPrimes(
        primes.symbols, primes.n_features, primes.pairs[1:], primes.values[1:]
    )
    outside = FingerprintPrimes(
        primes.symbols, primes.n_features, primes.pairs + np.int32(1), primes.values
    )
    for entry in (nothing, no_symbol, narrow, turned, lacking, outside):
        with pytest.raises(ValueError, match=r"do not fit|no atoms|not sorted"):
            encode(entry)


def test_kind_and_number_of_atoms_are_checked():
    fingerprint, primes = map(encode, make_entries(7, 3, {"H": 2}))
    assert decode(fingerprint, 3, "fingerprints") and decode(primes, 3, "primes")
    for data, other in ((fingerprint, "primes"), (primes, "fingerprints")):
        verify(data)
        with pytest.raises(CorruptEntryError, match="in a database of"):
            decode(data, kind=other)
        with pytest.raises(CorruptEntryError, match="3 atoms where the image has 4"):
            decode(data, n_atoms=4)


def test_every_cut_is_found(entries):
    for entry in entries:
        data = encode(entry)
        cuts = range(len(data)) if len(data) < 2000 else range(0, len(data), 97)
        for cut in cuts:
            for read in (decode, verify):
                with pytest.raises(CorruptEntryError):
                    read(data[:cut])


def test_every_changed_byte_is_found():
    for entry in make_entries(8, 3, {"H": 2, "O": 1}, 1):
        data = encode(entry)
        for position in range(len(data)):
            for change in (1, 0x20, 0x80):
                wrong = bytearray(data)
                wrong[position] ^= change
                for read in (decode, verify):
                    with pytest.raises(CorruptEntryError):
                        read(bytes(wrong))


def test_layout_is_exact_even_where_the_checksum_is_right():
    """What decodes under a forged trailer encodes to the very same bytes."""
    for entry in make_entries(9, 3, {"H": 2, "O": 1}, 1):
        pickled = encode(entry)[:-20]
        accepted = 0
        for position in range(len(pickled)):
            for change in (1, 0x04, 0x20, 0x80):
                wrong = bytearray(pickled)
                wrong[position] ^= change
                data = reseal(bytes(wrong))
                try:
                    decoded = decode(data)
                except CorruptEntryError:
                    continue
                accepted += 1
                assert encode(decoded) == data
                assert pickle.loads(data) == decoded.to_amp()
        assert accepted > 0


@pytest.mark.parametrize(
    "words",
    [
        "fingerprint 1 H:999999999:1",
        "fingerprint 9999999999 H:1:1",
        "fingerprint 1 H:1:999999999999",
        "primes 9999999999 H:1:1",
        "primes 1 H:999999999:999999999999",
        "primes 9999999999 H:0:999999999999",
        "fingerprint 1 H:1:1 H:1:1",
        "fingerprint 2 H:1000000:1 O:0:1",
    ],
)
def test_headers_that_lie_take_no_memory(words):
    text = f"ampmpi-entry 1 {words}".encode()
    head = b"\x80\x02X" + struct.pack("<I", len(text)) + text + b"0X\1\0\0\0Hq\x000"
    for body in (b"](h\0](G" + bytes(8) + b"e\x86e.", b"", b"}(u.", b"." * 100):
        with limited_memory(), pytest.raises(CorruptEntryError):
            decode(reseal(head + body))
