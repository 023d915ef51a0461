"""Entries to test with, of any size and number of features."""

import contextlib
import gc
import hashlib
import os
import resource
import socket

import numpy as np

from ampmpi.entries import Fingerprint, FingerprintPrimes


def make_key(number):
    return hashlib.md5(str(number).encode()).hexdigest()


def make_entries(seed, n_atoms, n_features, n_neighbors=3, symbols=None):
    """Return a fingerprint and primes of random numbers.

    `n_features` maps elements to their numbers of features.
    """
    rng = np.random.default_rng(seed)
    if symbols is None:
        symbols = rng.choice(sorted(n_features), n_atoms)
    symbols = tuple(map(str, symbols))
    widths = {symbol: n_features[symbol] for symbol in sorted(set(symbols))}
    widest = max(widths.values())
    used = np.arange(widest) < np.array([widths[s] for s in symbols])[:, None]
    values = rng.normal(size=(n_atoms, widest)) * used
    found = {(n, n) for n in range(n_atoms)}
    for n in range(n_atoms):
        found |= {(n, int(m)) for m in rng.integers(n_atoms, size=n_neighbors)}
    pairs = np.array([(m, n) for n, m in sorted(found)], np.int32)
    primes = rng.normal(size=(len(pairs), 3, widest)) * used[pairs[:, 1], None, :]
    return (
        Fingerprint(symbols, widths, values),
        FingerprintPrimes(symbols, widths, pairs, primes),
    )


@contextlib.contextmanager
def limited_memory(megabytes=300):
    """Let this process take no more than so much memory beyond what it has."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def open_files():
    """How many files this process has open, that somebody still holds."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


SPECIAL = ("pipe", "socket", "directory", "link to an entry", "dangling link", "link to itself")


def make_special(what, path, entry):
    """Make something at `path` that is no regular file; `entry` is one that a link may lead to."""
    if what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        with contextlib.chdir(os.path.dirname(path)), socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.basename(path))
    elif what == "directory":
        os.mkdir(path)
        with open(f"{path}/note", "w") as file:
            file.write("mine")
    else:
        target = {"link to an entry": entry, "dangling link": "/none", "link to itself": path}
        os.symlink(target[what], path)


def refuse(monkeypatch, path, error):
    """Let the system refuse to open one file for reading, by its path or in its open folder."""
    real, where = os.open, os.stat(os.path.dirname(path))

    def is_meant(name, folder):
        if folder is None:
            return name == path
        return name == os.path.basename(path) and os.path.samestat(os.fstat(folder), where)

    def refusing(name, flags, *rest, dir_fd=None):
        if not flags & (os.O_WRONLY | os.O_RDWR) and is_meant(name, dir_fd):
            raise OSError(error, os.strerror(error))
        return real(name, flags, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)
