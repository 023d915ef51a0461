"""Deflate libraries on fingerprint primes, on one core, in one run.

``python benchmarks/deflaters.py``

isal, which ampmpi uses, beside zlib and, if they can be imported, zlib-ng (PyPI
``zlib-ng``) and libdeflate (PyPI ``deflate``): ampmpi needs neither. An archive is made
of pieces that end with a full flush, so that they can be moved and put one behind the
other; which library makes such pieces is tried out. Then the same pieces, as isal makes
them, are inflated by each library: what it costs to verify an entry as it is written.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import time
import zlib
from collections.abc import Callable
from functools import partial
from types import ModuleType

from packs import heading, keys, primes

from ampmpi.database.archive.deflate import deflate, inflate
from ampmpi.database.archive.tar import entry_record
from ampmpi.entries.checksum import crc32

END = b"\x03\x00"
"""An empty last block: ends a stream of which every piece ends with a full flush."""


def module(name: str) -> ModuleType | None:
    """Return a module, None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def piece(library: ModuleType, level: int, data: bytes) -> bytes:
    """Deflate with the interface of zlib, up to a full flush."""
    stream = library.compressobj(level, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush(zlib.Z_FULL_FLUSH)


def unpiece(library: ModuleType, raw: bytes, length: int) -> bytes:
    """Inflate with the interface of zlib."""
    return library.decompressobj(-15).decompress(raw, length + 1)


Compressor = Callable[[bytes], bytes]
Decompressor = Callable[[bytes, int], bytes]


def libraries() -> tuple[dict[str, tuple[Compressor, str]], dict[str, Decompressor]]:
    """Return what deflates, each with whose `inflaters` its stream is for, and what inflates."""
    isal = importlib.import_module("isal.isal_zlib")
    deflaters: dict[str, tuple[Compressor, str]] = {
        f"isal {level}": (partial(piece, isal, level), "isal") for level in range(4)
    }
    inflaters: dict[str, Decompressor] = {"isal": partial(unpiece, isal)}
    for name, library, levels in (
        ("zlib", zlib, (1, 6)),
        ("zlib-ng", module("zlib_ng.zlib_ng"), (1, 2, 6)),
    ):
        if library is not None:
            for level in levels:
                deflaters[f"{name} {level}"] = partial(piece, library, level), name
            inflaters[name] = partial(unpiece, library)
    if (lib := module("deflate")) is not None:
        for level in (1, 6):
            deflaters[f"libdeflate {level}"] = (
                partial(lib.deflate_compress, compresslevel=level),
                "",
            )
        inflaters["libdeflate"] = lambda raw, length: bytes(
            lib.deflate_decompress(raw + END, length)
        )
        inflaters[""] = lambda raw, length: bytes(lib.deflate_decompress(raw, length))
    return deflaters, inflaters


def can_be_joined(function: Compressor, records: list[bytes]) -> bool:
    """Whether pieces, one behind the other, are one stream of all that they hold."""
    stream = zlib.decompressobj(-15)
    found = stream.decompress(b"".join(map(bytes, map(function, records))) + END)
    return stream.eof and found == b"".join(records)


def cpu(function: Callable[[], object]) -> float:
    """CPU time of a call, ms."""
    start = time.process_time()
    function()
    return 1e3 * (time.process_time() - start)


def by_turns(
    functions: dict[str, Callable[[int], object]], count: int, rounds: int
) -> dict[str, float]:
    """Median CPU time, ms, of each function on each item; all are called by turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds):
        for name, function in functions.items():
            every = [cpu(partial(function, each)) for each in range(count)]
            if number:  # the first round is to warm up
                times[name] += every
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    entries = primes(options.entries)
    names = keys(len(entries))
    records = [entry_record(key, data) for key, data in zip(names, entries, strict=True)]
    raws = list(map(deflate, records))
    n, rounds = len(records), options.rounds
    mega = sum(map(len, records)) / n / 1e6
    deflaters, inflaters = libraries()

    heading(f"Primes of {mega:.2f} MB, ms of CPU time per entry: medians of {n} x {rounds - 1}")
    made = {name: [bytes(f(one)) for one in records] for name, (f, _) in deflaters.items()}
    down = by_turns(
        {name: lambda i, f=f: f(records[i]) for name, (f, _) in deflaters.items()}, n, rounds
    )
    up = by_turns(
        {
            name: lambda i, f=inflaters[whose], raw=made[name]: f(raw[i], len(records[i]))
            for name, (_, whose) in deflaters.items()
        },
        n, rounds,
    )  # fmt: skip
    print(f"  {'':14}{'deflate':>9}{'inflate':>9}{'ratio':>8}{'MB/s':>8}   full flush")
    for name, (function, whose) in deflaters.items():
        raw = made[name]
        for one, record in zip(raw, records, strict=True):
            assert inflaters[whose](one, len(record)) == record
        size = sum(map(len, raw)) / n / 1e6
        joined = "yes" if can_be_joined(function, records[:3]) else "no"
        print(
            f"  {name:14}{down[name]:9.3f}{up[name]:9.3f}{size / mega:8.3f}"
            f"{1e3 * mega / down[name]:8.0f}   {joined}"
        )

    heading("What verifying a piece of isal's would cost as it is written, ms of CPU time")
    checks: dict[str, Callable[[int], object]] = {
        "ours (zlib, compared)": lambda i: inflate(raws[i], len(records[i])) == records[i],
        "CRC-32 of the record": lambda i: crc32(records[i]),
        "CRC-32 of the piece": lambda i: crc32(raws[i]),
    }
    for name, function in inflaters.items():
        if name:
            checks[f"{name}, compared"] = lambda i, f=function: (
                f(raws[i], len(records[i])) == records[i]
            )
    for name, ms in by_turns(checks, n, rounds).items():
        print(f"  {name:24}{ms:9.3f}")


if __name__ == "__main__":
    main()
