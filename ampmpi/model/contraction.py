"""Kernel over fingerprint primes: forces, and what their loss sends back.

The derivatives of one image are read twice while they are in the cache:
once for the forces, once for the loss's derivative with respect to dE/dG.
"""

from __future__ import annotations

import numba
import numpy as np

from ampmpi.model.layers import Array
from ampmpi.model.packed import PackedPrimes


def contract(
    primes: PackedPrimes, dE_dG: Array, reference: Array, atom_weight: Array
) -> tuple[Array, Array]:
    """Return `residuals` and `back` of `force_terms`, whose other arguments these are."""
    residuals, back = np.empty_like(reference), np.empty_like(dE_dG)
    force_terms(
        primes.image_start, primes.run_start, primes.kinds, primes.column_start, primes.columns,
        primes.moved, primes.centres, primes.value_start, primes.values, dE_dG, reference,
        atom_weight, residuals, back,
    )  # fmt: skip
    return residuals, back


@numba.njit(nogil=True, error_model="numpy", forceinline=True)
def _block(values, at, pairs, width):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the values of a run as (pairs, 3, width), which loops read faster than one row."""
    return values[at : at + 3 * width * len(pairs)].reshape(len(pairs), 3, width)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def force_terms(  # type: ignore[no-untyped-def]  # pragma: no cover
    image_start, run_start, kinds, column_start, columns, moved, centres, value_start, values,
    dE_dG, reference, atom_weight, residuals, back,
):  # fmt: skip
    """Compute the force residuals of each image and the loss's derivative with respect to dE/dG.

    For the loss ``½ Σ_m w_m |F_m - F_m,reference|²`` this fills
    ``residuals[m] = F_m - F_m,reference`` and
    ``back[n] = dL/d(dE_n/dG_n) = -Σ_m w_m residuals[m] · dG_n/dR_m``.

    Parameters
    ----------
    image_start, run_start, kinds, column_start, columns, moved, centres, value_start, values
        Derivatives dG_n/dR_m in 1/Å, as in `PackedPrimes`, m and n as rows.
    dE_dG : (n_atoms, n_features) float array, eV
        Derivative of each atomic energy.
    reference : (n_atoms, 3) float array, eV/Å
        Forces to be learnt.
    atom_weight : (n_atoms,) float array
        Weight w of each atom's residual; 0 leaves it out of the loss.
    residuals : (n_atoms, 3) float array, eV/Å
        Written.
    back : (n_atoms, n_features) float array
        Written.
    """
    n_features = back.shape[1]
    row = np.empty(n_features)  # of dE_dG, then of back, in the columns of one run
    for a in range(residuals.shape[0]):
        for d in range(3):
            residuals[a, d] = -reference[a, d]
        for f in range(n_features):
            back[a, f] = 0.0
    for i in range(image_start.shape[0] - 1):
        for r in range(image_start[i], image_start[i + 1]):
            features = columns[column_start[kinds[r]] : column_start[kinds[r] + 1]]
            pairs = moved[run_start[r] : run_start[r + 1]]
            n, width = centres[run_start[r]], len(features)
            for c in range(width):
                row[c] = dE_dG[n, features[c]]
            block = _block(values, value_start[r], pairs, width)
            for p in range(len(pairs)):
                m = pairs[p]
                x = y = z = 0.0
                for c in range(width):
                    x += block[p, 0, c] * row[c]
                    y += block[p, 1, c] * row[c]
                    z += block[p, 2, c] * row[c]
                residuals[m, 0] -= x
                residuals[m, 1] -= y
                residuals[m, 2] -= z
        for r in range(image_start[i], image_start[i + 1]):
            features = columns[column_start[kinds[r]] : column_start[kinds[r] + 1]]
            pairs = moved[run_start[r] : run_start[r + 1]]
            n, width = centres[run_start[r]], len(features)
            for c in range(width):
                row[c] = 0.0
            block = _block(values, value_start[r], pairs, width)
            for p in range(len(pairs)):
                m = pairs[p]
                w = atom_weight[m]
                x = w * residuals[m, 0]
                y = w * residuals[m, 1]
                z = w * residuals[m, 2]
                for c in range(width):
                    row[c] += x * block[p, 0, c] + y * block[p, 1, c] + z * block[p, 2, c]
            for c in range(width):
                back[n, features[c]] -= row[c]
