"""Fingerprint primes without the columns that are zero.

An atom changes those of another one's features that its element is in: half of them or fewer.
So the pairs of a centre are sorted by the element of the atom that is moved, and of each *run*
of pairs that have both in common only the columns are kept in which some derivative of the
image is not zero. An atom's own pair is a run for itself, as its own move changes all features.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from ampmpi.entries import FingerprintPrimes
from ampmpi.model.layers import Array

entry = numba.njit(cache=True, nogil=True, error_model="numpy")


@dataclass(frozen=True, eq=False)
class PackedPrimes:
    """The derivatives dG_n/dR_m of some images.

    The derivatives of pair p by component d are ``primes[p, d]``, as of an array of `shape`;
    only index arrays are taken, and what they give is a copy.

    Attributes
    ----------
    moved, centres : (n_pairs,) int32 arrays
        Atoms m and n.
    image_start : (n_images + 1,) int64 array
        The first run of each image.
    run_start : (n_runs + 1,) int64 array
        The first pair of each run; its pairs have one centre, and atoms m of one element.
    kinds : (n_runs,) int32 array
        Which features a run has.
    column_start : (n_kinds + 1,) int64 array
        Where the features of a kind begin in `columns`.
    columns : int32 array
        Those features.
    value_start : (n_runs + 1,) int64 array
        Where the values of a run begin: (pairs, 3, columns), one after the other.
    values : float array, 1/Å
        The derivatives.
    width : int
        Number of features.
    """

    moved: NDArray[np.int32]
    centres: NDArray[np.int32]
    image_start: NDArray[np.int64]
    run_start: NDArray[np.int64]
    kinds: NDArray[np.int32]
    column_start: NDArray[np.int64]
    columns: NDArray[np.int32]
    value_start: NDArray[np.int64]
    values: Array
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (n_pairs, 3, max_features) of the array that these derivatives are."""
        return len(self.moved), 3, self.width

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        arrays = (self.moved, self.centres, self.run_start, self.kinds, self.value_start)
        return self.values.nbytes + sum(array.nbytes for array in arrays)

    def __getitem__(self, pairs: NDArray[np.integer]) -> Array:
        """Return the derivatives of some pairs, (len(pairs), 3, max_features)."""
        out = np.zeros((len(pairs), *self.shape[1:]))
        pairs = np.asarray(pairs, np.int64)
        runs = np.searchsorted(self.run_start, pairs, side="right") - 1
        unpack(
            pairs, runs, self.run_start, self.kinds, self.column_start, self.columns,
            self.value_start, self.values, out,
        )  # fmt: skip
        return out


def pack(primes: FingerprintPrimes) -> PackedPrimes:
    """Leave out the columns of an image's derivatives that are zero."""
    symbols, slots = np.unique(np.array(primes.symbols), return_inverse=True)
    n_moved = len(symbols) + 1  # an atom of one of them, or the centre itself
    n_kinds = n_moved * len(symbols)
    moved, centres = primes.pairs.T.astype(np.int32)
    kinds = np.where(moved == centres, len(symbols), slots[moved]) + n_moved * slots[centres]
    order = np.argsort(centres * np.int64(n_kinds) + kinds, kind="stable")
    used = np.zeros((n_kinds, primes.values.shape[2]), dtype=bool)
    find_used(primes.values, kinds, used)
    columns = np.nonzero(used)[1].astype(np.int32)
    column_start = _starts(used.sum(axis=1))

    moved, centres, kinds = moved[order], centres[order], kinds[order]
    first = np.flatnonzero(np.diff(centres, prepend=-1) | np.diff(kinds, prepend=-1))
    run_start = np.append(first, len(order)).astype(np.int64)
    kinds = kinds[first].astype(np.int32)
    value_start = _starts(3 * np.diff(run_start) * np.diff(column_start)[kinds])
    values = np.empty(value_start[-1])
    copy_used(primes.values, order, run_start, kinds, column_start, columns, values)
    return PackedPrimes(
        moved, centres, _starts([len(first)]), run_start, kinds, column_start, columns, value_start,
        values, used.shape[1],
    )  # fmt: skip


def join(blocks: Sequence[PackedPrimes], rows: Sequence[NDArray[np.int64]]) -> PackedPrimes:
    """Join those of images whose atoms become these rows, one array for each image."""
    known: dict[bytes, int] = {}
    columns: list[NDArray[np.int32]] = []
    renamed = []
    for block in blocks:
        numbers = []
        for start, stop in itertools.pairwise(block.column_start):
            features = block.columns[start:stop]
            numbers.append(known.setdefault(features.tobytes(), len(known)))
            columns += [features] if len(known) > len(columns) else []
        renamed.append(np.array(numbers, np.int32)[block.kinds])
    return PackedPrimes(
        moved=_together([r[b.moved] for r, b in zip(rows, blocks, strict=True)]),
        centres=_together([r[b.centres] for r, b in zip(rows, blocks, strict=True)]),
        image_start=_starts([len(b.kinds) for b in blocks]),
        run_start=_starts(np.concatenate([np.diff(b.run_start) for b in blocks])),
        kinds=np.concatenate(renamed),
        column_start=_starts([len(c) for c in columns]),
        columns=np.concatenate(columns),
        value_start=_starts(np.concatenate([np.diff(b.value_start) for b in blocks])),
        values=np.concatenate([b.values for b in blocks]),
        width=max(b.width for b in blocks),
    )


def _together(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int32]:
    return np.concatenate(parts).astype(np.int32)


def _starts(counts: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
    """Where each of several parts begins, and the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@entry
def find_used(values, kinds, used):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Mark the columns of each kind of pairs in which some value is not zero.

    Parameters
    ----------
    values : (n_pairs, 3, n_features) float array
        Derivatives.
    kinds : (n_pairs,) int array
        The kind of each pair.
    used : (n_kinds, n_features) bool array
        Marked where there is a value.
    """
    for p in range(values.shape[0]):
        mark = used[kinds[p]]
        for d in range(3):
            for f in range(values.shape[2]):
                mark[f] |= values[p, d, f] != 0.0


@entry
def copy_used(  # type: ignore[no-untyped-def]  # pragma: no cover
    values, order, run_start, kinds, column_start, columns, out
):
    """Copy the columns in use, run by run, to `out`.

    Parameters
    ----------
    values : (n_pairs, 3, n_features) float array
        Derivatives.
    order : (n_pairs,) int array
        Which of them come one after the other.
    run_start, kinds, column_start, columns
        As in `PackedPrimes`.
    out : float array
        Written.
    """
    at = 0
    for r in range(len(kinds)):
        first, last = column_start[kinds[r]], column_start[kinds[r] + 1]
        for q in range(run_start[r], run_start[r + 1]):
            p = order[q]
            for d in range(3):
                for c in range(first, last):
                    out[at] = values[p, d, columns[c]]
                    at += 1


@entry
def unpack(  # type: ignore[no-untyped-def]  # pragma: no cover
    pairs, runs, run_start, kinds, column_start, columns, value_start, values, out
):
    """Copy the values of pairs, each of which is in one of the `runs`, to their columns of `out`.

    Parameters
    ----------
    pairs, runs : (n,) int arrays
        Pairs, and the run of each.
    run_start, kinds, column_start, columns, value_start, values
        As in `PackedPrimes`.
    out : (n, 3, n_features) float array
        Written where a value is kept.
    """
    for i in range(len(pairs)):
        r = runs[i]
        first, last = column_start[kinds[r]], column_start[kinds[r] + 1]
        at = value_start[r] + (pairs[i] - run_start[r]) * 3 * (last - first)
        for d in range(3):
            for c in range(first, last):
                out[i, d, columns[c]] = values[at]
                at += 1
