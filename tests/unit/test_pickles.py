"""Amp's own pickles: read right, and never run."""

import json
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from entry_samples import limited_memory, make_entries

from ampmpi.entries import Fingerprint
from ampmpi.entries.codec import decode, encode
from ampmpi.errors import CorruptEntryError

AMP = Path(__file__).parents[1] / "data" / "amp"
GOLDEN = sorted(AMP.glob("loose-fingerprint*.ampdb/loose/*"))


def plain(entry):
    content = entry.to_amp()
    if isinstance(entry, Fingerprint):
        return [[symbol, values] for symbol, values in content]
    return sorted([list(key), values] for key, values in content.items())


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parts[-3][6:-6]}-{path.name[:4]}")
def test_what_amp_wrote(path):
    kind = path.parts[-3].removeprefix("loose-").removesuffix(".ampdb")
    expected = json.loads((AMP / "expected.json").read_text())[kind][path.name]
    entry = decode(path.read_bytes(), kind="primes" if "primes" in kind else "fingerprints")
    assert plain(entry) == expected


def test_golden_files_are_there():
    assert len(GOLDEN) == 6


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(protocol):
    for entry in make_entries(1, 7, {"Cu": 5, "H": 0, "Pt": 2}):
        assert decode(pickle.dumps(entry.to_amp(), protocol)) == entry


@pytest.mark.parametrize("protocol", range(5))
def test_numpy_scalars_and_arrays(protocol):
    fingerprint, primes = make_entries(2, 4, {"Cu": 3, "H": 2})
    content = [(np.str_(symbol), np.array(values)) for symbol, values in fingerprint.to_amp()]
    assert decode(pickle.dumps(content, protocol)) == fingerprint
    content = [(np.bytes_(symbol), values) for symbol, values in fingerprint.to_amp()]
    assert decode(pickle.dumps(content, protocol)) == fingerprint
    items = {
        (np.int64(m), np.str_(a), n, np.str_(b), np.int32(d)): list(map(np.float64, values))
        for (m, a, n, b, d), values in primes.to_amp().items()
    }
    assert decode(pickle.dumps(items, protocol)) == primes
    swapped = {key: np.array(values, ">f8") for key, values in primes.to_amp().items()}
    assert decode(pickle.dumps(swapped, protocol)) == primes


def test_integers_are_numbers():
    entry = decode(pickle.dumps([("H", [0, 1.5, -3])], 0))
    assert entry.values.tolist() == [[0.0, 1.5, -3.0]]


def test_python_2_strings():
    assert decode(b"(lp0\n(S'Cu'\np1\n(lp2\nF0.5\natp3\na.").symbols == ("Cu",)


WRONG = {
    "nothing": b"",
    "a number": pickle.dumps(1.0, 0),
    "no atoms": pickle.dumps([], 0),
    "no primes": pickle.dumps({}, 0),
    "a flat list": pickle.dumps([1.0, 2.0], 0),
    "no symbol": pickle.dumps([("copper", [1.0])], 0),
    "a number for a symbol": pickle.dumps([(1, [1.0])], 0),
    "a string for a value": pickle.dumps([("H", ["1.0"])], 0),
    "a bool for a value": pickle.dumps([("H", [True])], 0),
    "None for a value": pickle.dumps([("H", [None])], 0),
    "nan": pickle.dumps([("H", [float("nan")])], 2),
    "nan in text": pickle.dumps([("H", [float("nan")])], 0),
    "inf": pickle.dumps([("H", [float("inf")])], 2),
    "overflow": b"(lp0\n(VH\n(lp1\nF1e999\natp2\na.",
    "a complex value": pickle.dumps([("H", [1j])], 0),
    "lengths that differ": pickle.dumps([("H", [1.0]), ("H", [1.0, 2.0])], 0),
    "a matrix": pickle.dumps([("H", np.zeros((2, 2)))], 2),
    "an object array": pickle.dumps([("H", np.array([None], object))], 2),
    "a record array": pickle.dumps([("H", np.zeros(1, "i4,f8"))], 2),
    "primes of direction 3": pickle.dumps({(0, "H", 0, "H", 3): [1.0]}, 0),
    "primes of one direction": pickle.dumps({(0, "H", 0, "H", 0): [1.0]}, 0),
    "primes without a self pair": pickle.dumps(
        {(1, "H", 0, "H", d): [1.0] for d in range(3)}
        | {(0, "H", 1, "H", d): [1.0] for d in range(3)},
        0,
    ),
    "primes that lack an atom": pickle.dumps({(1, "H", 1, "H", d): [1.0] for d in range(3)}, 0),
    "primes with two symbols": pickle.dumps(
        {(0, "H", 0, "H", 0): [1.0], (0, "O", 0, "O", 1): [1.0], (0, "H", 0, "H", 2): [1.0]}, 0
    ),
    "primes of negative atoms": pickle.dumps({(-1, "H", -1, "H", d): [1.0] for d in range(3)}, 0),
    "primes of far atoms": pickle.dumps(
        {(10**12, "H", 10**12, "H", d): [1.0] for d in range(3)}, 0
    ),
    "a short key": pickle.dumps({(0, "H", 0): [1.0]}, 0),
    "a key twice": b"(d" + b"(I0\nVH\nI0\nVH\nI0\nt(lF1.0\nas" * 2 + b".",
    "something after it": pickle.dumps([("H", [1.0])], 0) + b"\n",
    "no end": pickle.dumps([("H", [1.0])], 0)[:-1],
    "two of them": pickle.dumps([("H", [1.0])], 0) * 2,
    "a neighbour list": pickle.dumps([(np.array([1]), np.zeros((1, 3)))], 0),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_are_refused(name):
    with pytest.raises(CorruptEntryError):
        decode(WRONG[name])


class Runs:
    """Its pickle makes a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_not_run(protocol, tmp_path):
    target = tmp_path / "made"
    for content in (Runs(target), [Runs(target)], [("H", [Runs(target)])], {Runs(target): 1}):
        with pytest.raises(CorruptEntryError):
            decode(pickle.dumps(content, protocol))
    assert not target.exists()


def text(module, name, arguments=b"(Vtouch made\ntR."):
    return b"c" + module + b"\n" + name + b"\n" + arguments


HOSTILE = {
    "system": text(b"os", b"system"),
    "eval": text(b"builtins", b"eval"),
    "getattr": text(b"builtins", b"getattr"),
    "numpy load": text(b"numpy", b"load"),
    "numpy runstring": text(b"numpy.testing._private.utils", b"runstring"),
    "f2py": text(b"numpy.f2py.crackfortran", b"myeval"),
    "dotted": b"\x80\x04\x8c\x05numpy\x8c\x10core.multiarray.x\x93.",
    "codecs decode": text(b"_codecs", b"decode"),
    "encode with another codec": b"c_codecs\nencode\n(Vab\nVzip\ntR.",
    "object dtype": b"cnumpy\ndtype\n(VO8\nI00\nI01\ntR.",
    "void dtype": b"cnumpy\ndtype\n(VV999999\nI00\nI01\ntR.",
    "wide dtype": b"cnumpy\ndtype\n(VU999999999\nI00\nI01\ntR.",
    "instance": b"(ios\nsystem\n.",
    "object": b"(cos\nsystem\no.",
    "new object": b"\x80\x02cbuiltins\nlist\n)\x81.",
    "persistent id": b"Pfile\n.",
    "binary persistent id": b"Vfile\nQ.",
    "extension": b"\x80\x02\x82\x01.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "big memo": b"(lp99999999\n.",
    "big binary memo": b"]r\xff\xff\xff\x7f.",
    "memo get": b"g5\n.",
    "long string": b"X\xff\xff\xff\x7fabc.",
    "long frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "long bytes": b"\x80\x03B\xff\xff\xff\xffabc.",
    "long integer": b"I" + b"9" * 100_000 + b"\n.",
    "wide integer": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "deep tuples": b"(" * 100_000 + b"t" * 100_000 + b".",
    "deep lists": b"(l" + b"]" * 100_000 + b"a" * 100_000 + b".",
    "marks": b"(" * 200_000 + b".",
    "tuples without marks": b"t" * 1000 + b".",
    "pops": b"0" * 1000 + b".",
    "mark as an item": b"](a.",
    "mark in a tuple": b"](\x85.",
    "mark as a key": b"}(Ns.",
    "mark memoised": b"(p0\n.",
    "itself": b"(lp0\ng0\na.",
    "itself in a tuple": b"]q\0(X\1\0\0\0Hh\0ta.",
    "build on a list": b"](K\1K\2tb.",
    "call a list": b"])R.",
    "another array class": text(b"numpy.core.multiarray", b"_reconstruct", b"(cnumpy\ndtype\ntR."),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_do_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with limited_memory(), pytest.raises(CorruptEntryError):
        decode(HOSTILE[name])
    assert not list(tmp_path.iterdir())


def test_repeated_rows_cannot_grow_without_bound():
    """A list written once and named a million times would be 8 TB of numbers."""
    row = b"(lp1\n" + b"F1.0\na" * 200_000
    again = b"(VH\ng1\nta" * 200_000
    data = b"(lp0\n(VH\n" + row + b"ta" + again + b"."
    with limited_memory(), pytest.raises(CorruptEntryError, match="more numbers"):
        decode(data)


def test_array_shapes_that_lie_take_no_memory():
    data = pickle.dumps([("H", np.zeros(5))], 2)
    wrong = data.replace(b"K\x05\x85", b"J\xff\xff\xff\x7f\x85")
    assert wrong != data
    with limited_memory(), pytest.raises(CorruptEntryError):
        decode(wrong)


def mutated(rng, data):
    """Return data with one to three things wrong."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        kind, at = rng.randrange(6), rng.randrange(len(data) + 1)
        length = min(rng.choice((1, 2, 8, 64, 512)), len(data) - at)
        if kind == 0 and length:
            data[at] = rng.randrange(256)
        elif kind == 1 and length:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at : at + length] = bytes(length)
        elif kind == 4:
            data[at:at] = rng.randbytes(max(length, 1))
        elif kind == 5:
            source = rng.randrange(len(data) + 1)
            data[at : at + length] = data[source : source + length]
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


def test_mutations_of_amps_entries_keep_the_shape():
    """Amp's entries have no checksum: numbers may change, the shape may not."""
    rng = random.Random(1)
    seeds = [path.read_bytes() for path in GOLDEN]
    accepted = 0
    for _ in range(6000):
        data = mutated(rng, rng.choice(seeds))
        try:
            entry = decode(data)
        except CorruptEntryError:
            continue
        accepted += 1
        assert np.isfinite(entry.values).all()
        assert set(entry.symbols) == set(entry.n_features)
        assert entry.values.shape[-1] == max(entry.n_features.values())
        assert decode(pickle.dumps(entry.to_amp(), 0)) == entry
    assert 0 < accepted < 6000


def test_mutations_of_our_entries_are_found():
    rng = random.Random(2)
    seeds = {
        encode(entry): entry
        for seed in range(4)
        for entry in make_entries(seed, 3 + seed, {"Cu": 4, "H": seed % 3})
    }
    for _ in range(6000):
        source = rng.choice(list(seeds))
        data = mutated(rng, source)
        try:
            entry = decode(data)
        except CorruptEntryError:
            continue
        assert data == source
        assert entry == seeds[source]


def test_forged_memo_numbers():
    """A memo number costs nothing, however large."""
    for number in (10**9, 10**17):
        data = b"(lp%d\n(VH\n(lF1.0\nata." % number
        with limited_memory():
            assert decode(data).values.tolist() == [[1.0]]
