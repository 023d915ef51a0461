"""Kernel over fingerprint primes: forces, and what their loss sends back.

The derivatives of one image are read twice while they are in the cache:
once for the forces, once for the loss's derivative with respect to dE/dG.
"""

from __future__ import annotations

import numba


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def force_terms(  # type: ignore[no-untyped-def]  # pragma: no cover
    pair_start, moved, centres, primes, dE_dG, reference, atom_weight, residuals, back
):
    """Compute the force residuals of each image and the loss's derivative with respect to dE/dG.

    For the loss ``½ Σ_m w_m |F_m - F_m,reference|²`` this fills
    ``residuals[m] = F_m - F_m,reference`` and
    ``back[n] = dL/d(dE_n/dG_n) = -Σ_m w_m residuals[m] · dG_n/dR_m``.

    Parameters
    ----------
    pair_start : (n_images + 1,) int array
        Where the pairs of each image start.
    moved, centres : (n_pairs,) int arrays
        Rows of the atoms m and n.
    primes : (n_pairs, 3, n_features) float array, 1/Å
        dG_n/dR_m.
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
    n_features = primes.shape[2]
    for a in range(residuals.shape[0]):
        for d in range(3):
            residuals[a, d] = -reference[a, d]
        for f in range(n_features):
            back[a, f] = 0.0
    for i in range(pair_start.shape[0] - 1):
        for p in range(pair_start[i], pair_start[i + 1]):
            m, n = moved[p], centres[p]
            x = y = z = 0.0
            for f in range(n_features):
                x += primes[p, 0, f] * dE_dG[n, f]
                y += primes[p, 1, f] * dE_dG[n, f]
                z += primes[p, 2, f] * dE_dG[n, f]
            residuals[m, 0] -= x
            residuals[m, 1] -= y
            residuals[m, 2] -= z
        for p in range(pair_start[i], pair_start[i + 1]):
            m, n = moved[p], centres[p]
            w = atom_weight[m]
            x = w * residuals[m, 0]
            y = w * residuals[m, 1]
            z = w * residuals[m, 2]
            for f in range(n_features):
                back[n, f] -= x * primes[p, 0, f] + y * primes[p, 1, f] + z * primes[p, 2, f]
