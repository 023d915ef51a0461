"""Which candidates to keep: those with which a linear model explains energies and forces.

The functions are chosen one after the other. Each time it is the one that, together with
those that are there already, lowers the squared error of a linear model the most
(orthogonal least squares). A ridge on the weights of the features *as they are* makes
functions expensive that need large weights: narrow ones of tiny range.

Without labels the leading principal components of all candidates' responses take the
place of the forces: the functions are chosen that explain the other candidates best.

References
----------
S. Chen, C. F. N. Cowan and P. M. Grant, IEEE Trans. Neural Netw. 2, 302 (1991);
G. Imbalzano, A. Anelli, D. Giofré, S. Klees, J. Behler and M. Ceriotti,
J. Chem. Phys. 148, 241730 (2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ampmpi.functions.moments import Array, Moments

Columns = NDArray[np.int64]

FORCE_WEIGHT = 0.3
"""Weight of the mean squared force error, (eV/Å)², against that of the energies per atom."""

RIDGE = 1e-4
"""Penalty on the weights while functions are chosen, in units of the mean square column."""

FIT_RIDGE = 1e-8
"""The same where the chosen ones are fitted: as little as numbers need."""

TINY = 1e-3
"""Functions whose spread is below this part of the element's largest are left out."""

EXHAUSTED = 1e-12
"""A column is a combination of others when less than this part of its square is left."""

EQUAL = 1e-6
"""Gains that differ less are equal, and the first is taken: not the rounding of sums decides."""


@dataclass(frozen=True, eq=False)
class Equations:
    """Normal equations of the linear model.

    Attributes
    ----------
    matrix : (n_columns, n_columns) float array
        Products of the columns.
    targets : (n_columns, n_targets) float array
        Products of the columns and what they are to explain.
    """

    matrix: Array
    targets: Array


@dataclass(frozen=True)
class LinearError:
    """Errors of linear fits on images that they have not seen.

    Attributes
    ----------
    n : int
        Functions of each element.
    energy : float, eV per atom
        Root of the mean squared error.
    force : float, eV/Å
        Root of the mean squared error of the components.
    """

    n: int
    energy: float
    force: float


class Problem:
    """The choice among the candidates whose moments are given."""

    def __init__(self, moments: Moments, *, labelled: bool) -> None:
        self.moments, self.labelled = moments, labelled
        self.allowed = _with_spread(moments)
        n_atoms = np.maximum(moments.composition.sum(axis=1), 1.0)
        # Energies per atom, without what composition alone explains.
        share = moments.composition / n_atoms[:, None]
        left, sizes, _ = np.linalg.svd(share, full_matrices=False)
        basis = left[:, sizes > 1e-10 * sizes[0]]
        sums, energies = moments.sums / n_atoms[:, None], moments.energies / n_atoms
        self.sums = sums - basis @ (basis.T @ sums)
        self.energies = energies - basis @ (basis.T @ energies)
        self.force_weight = FORCE_WEIGHT * len(n_atoms) / moments.n_components.sum()

    def equations(self, left_out: int | None = None, ridge: float = RIDGE) -> Equations:
        """Return the normal equations of all folds but one."""
        moments = self.moments
        which = np.arange(len(moments.products)) != left_out
        rows = moments.folds != left_out
        sums = self.sums[rows]
        matrix = self.force_weight * moments.products[which].sum(axis=0) + sums.T @ sums
        target = self.force_weight * moments.with_forces[which].sum(axis=0)
        target += sums.T @ self.energies[rows]
        matrix[np.diag_indices_from(matrix)] += ridge * matrix.diagonal()[self.allowed].mean()
        return Equations(matrix, target[:, None])

    def choose(self, n: int, left_out: int | None = None) -> Columns:
        """Return the columns of `n` functions of each element, ascending; fewer if they do."""
        equations = self.equations(left_out)
        if not self.labelled:
            equations = _without_labels(equations, self.allowed, n, self.moments.owner)
        return select(equations, self.moments.owner, self.allowed, n)

    def cross_validate(self, n: int) -> LinearError:
        """Choose and fit without each fold in turn, and return the errors on these."""
        moments = self.moments
        energy, force = 0.0, 0.0
        for fold in range(len(moments.products)):
            kept = self.choose(n, fold)
            fit = self.equations(fold, FIT_RIDGE)
            weights = np.linalg.solve(fit.matrix[np.ix_(kept, kept)], fit.targets[kept, 0])
            rows = moments.folds == fold
            errors = self.sums[np.ix_(rows, kept)] @ weights - self.energies[rows]
            energy += float(errors @ errors)
            force += float(
                weights @ moments.products[fold][np.ix_(kept, kept)] @ weights
                - 2.0 * weights @ moments.with_forces[fold][kept]
                + moments.squares[fold]
            )
        return LinearError(
            n,
            float(np.sqrt(energy / len(self.energies))),
            float(np.sqrt(max(force, 0.0) / moments.n_components.sum())),
        )


def select(
    equations: Equations, owner: NDArray[np.int64], allowed: NDArray[np.bool_], n: int
) -> Columns:
    """Choose columns one after the other, up to `n` of each owner.

    Parameters
    ----------
    equations : Equations
        Products of columns and targets.
    owner : (n_columns,) int array
        What each column belongs to, from 0.
    allowed : (n_columns,) bool array
        Which columns can be chosen.
    n : int
        How many of each owner.

    Returns
    -------
    (n_chosen,) int array
        The columns chosen, ascending.
    """
    # Pivoted Cholesky factorisation: what is left of the columns after the chosen ones.
    whole = equations.matrix.diagonal()
    left, targets = whole.copy(), equations.targets.copy()
    factor: list[Array] = []
    chosen: list[int] = []
    free = allowed.copy()
    n_of = np.zeros(int(owner.max(initial=0)) + 1, dtype=np.int64)
    while free.any():
        gain = np.where(free, (targets**2).sum(axis=1) / np.maximum(left, 1e-300), -1.0)
        best = int(np.flatnonzero(gain >= (1.0 - EQUAL) * gain.max())[0])
        if left[best] <= EXHAUSTED * whole[best]:
            free[best] = False
            continue
        column = equations.matrix[:, best].copy()
        for earlier in factor:
            column -= earlier[best] * earlier
        column /= np.sqrt(left[best])
        targets = targets - np.outer(column, targets[best] / np.sqrt(left[best]))
        left = np.maximum(left - column**2, 0.0)
        factor.append(column)
        chosen.append(best)
        free[best] = False
        n_of[owner[best]] += 1
        if n_of[owner[best]] == n:
            free[owner == owner[best]] = False
    return np.array(sorted(chosen), dtype=np.int64)


def _with_spread(moments: Moments) -> NDArray[np.bool_]:
    allowed = np.zeros(len(moments.owner), dtype=bool)
    for number in range(moments.composition.shape[1]):
        mine = moments.owner == number
        largest = moments.spread[mine].max(initial=0.0)
        allowed[mine] = (moments.spread[mine] > TINY * largest) if largest > 0.0 else True
    return allowed


def _without_labels(
    equations: Equations, allowed: NDArray[np.bool_], n: int, owner: NDArray[np.int64]
) -> Equations:
    """Put the principal components of each element's candidates in the place of the labels."""
    targets = []
    for number in range(int(owner.max(initial=0)) + 1):
        mine = np.flatnonzero(allowed & (owner == number))
        _, vectors = np.linalg.eigh(equations.matrix[np.ix_(mine, mine)])
        targets.append(equations.matrix[:, mine] @ vectors[:, -2 * n :])
    return Equations(equations.matrix, np.hstack(targets))
