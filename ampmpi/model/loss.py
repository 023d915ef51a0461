"""The loss of a training and its gradient, on the images of one rank.

As in Amp, with E the energies, F the forces, N_i the atoms of image i, and w_i its weight,

    L = c_E Σ_i w_i ((E_i - E_i,ref) / N_i)² + c_F Σ_i w_i Σ_md (F_md - F_md,ref)² / (3 N_i),

plus `overfit` times the squared norm of the first layers' weights. Energies, forces and
stresses of an image, and the atoms of the force term, may have other weights than w_i; the sums
of squares that errors are made of are without these. Besides, with the stress σ
(eV/Å³, 3 × 3, symmetric) of a cell of the volume V, there is

    c_S Σ_i w_i Σ_ab (V_i (σ_i,ab - σ_i,ab,ref) / N_i)² / 9,

the mean squared component of the error of the virial per atom, in eV.

The gradient of the force term needs no loop over forces. With
``F_m = -Σ_n dG_n/dR_m · dE_n/dG_n`` a change of the parameters changes it by
``Σ_n back_n · δ(dE_n/dG_n)``, where ``back_n = -Σ_m dL/dF_m · dG_n/dR_m`` is one vector
for each atom: a directional derivative, which `tangent_gradient` differentiates. So it is with
the stress, where ``V σ_ab = Σ_n dE_n/dG_n · dG_n/dε_ab``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import ModelError
from ampmpi.model.batch import Batch
from ampmpi.model.contraction import contract
from ampmpi.model.layers import (
    Array,
    ElementParameters,
    energy_gradient,
    feature_gradient,
    forward,
    sensitivities,
    tangent_gradient,
)
from ampmpi.model.network import Network
from ampmpi.model.scaling import feature_scaling, network_input


@dataclass(frozen=True, eq=False)
class ScaledBatch:
    """A batch with its features scaled for one model.

    Attributes
    ----------
    batch : Batch
        The images.
    x : mapping of str to (n_features + 1, n_atoms of the element) float array
        Scaled features, as `network_input` makes them.
    factors : mapping of str to (n_features,) float array
        dx/dG.
    """

    batch: Batch
    x: Mapping[str, Array]
    factors: Mapping[str, Array]


def scale_batch(
    batch: Batch,
    fpranges: Mapping[str, Array],
    dropped: Mapping[str, NDArray[np.bool_]] | None = None,
) -> ScaledBatch:
    """Scale a batch's features with a model's ranges; those that are dropped become zeros."""
    for element, values in batch.features.items():
        if element not in fpranges:
            raise ModelError(
                f"image {batch.keys[0]} or one read with it holds {element}, an element that "
                f"the model lacks (it has {', '.join(sorted(fpranges))})"
            )
        if len(fpranges[element]) != values.shape[1]:
            raise ModelError(
                f"the model takes {len(fpranges[element])} features for {element}, but the "
                f"descriptor gives {values.shape[1]}: model and descriptor do not belong together"
            )
    scaled = ScaledBatch(
        batch,
        {e: network_input(v, fpranges[e]) for e, v in batch.features.items()},
        {e: feature_scaling(fpranges[e]) for e in batch.features},
    )
    for e in set(dropped or ()) & set(batch.features):
        out = (dropped or {})[e]
        scaled.x[e][:-1][out] = 0.0
        scaled.factors[e][out] = 0.0
    return scaled


@dataclass(frozen=True)
class Coefficients:
    """Weights of the terms of a loss.

    Attributes
    ----------
    energy : float
        c_E.
    force : float or None
        c_F; None leaves the forces out.
    overfit : float
        Weight of the squared norm of the first layers' weights.
    stress : float or None
        c_S; None leaves the stresses out.
    """

    energy: float = 1.0
    force: float | None = 0.04
    overfit: float = 0.0
    stress: float | None = None

    def weighted(self, sums: LossSums) -> float:
        """Return the weighted sum of all terms, without the `overfit` term."""
        total = self.energy * sums.energy + (self.force or 0.0) * sums.force
        return total + (self.stress or 0.0) * sums.stress


class LossSums(NamedTuple):
    """Sums over some images; those of several ranks add up.

    Attributes
    ----------
    energy : float, eV²
        Σ w ((E - E_ref) / N)².
    force : float, (eV/Å)²
        Σ w |F - F_ref|² / (3 N).
    energy_maxresid : float, eV
        Largest energy error per atom of those that count.
    force_maxresid : float, eV/Å
        Largest error of a force component.
    gradient : (n_parameters,) float array
        Derivative of the weighted sum of all.
    stress : float, eV²
        Σ w |V (σ - σ_ref) / N|² / 9.
    stress_squares : float, (eV/Å³)²
        Σ |σ - σ_ref|² / 9, as the errors that are reported are made of it: without the weights
        that were given to images, unless they are 0.
    stress_maxresid : float, eV/Å³
        Largest error of a stress component.
    energy_squares, force_squares : float, eV² and (eV/Å)²
        The same of energies and forces: Σ ((E - E_ref) / N)² and Σ |F - F_ref|² / (3 N), N being
        the number of atoms whose forces are trained.
    """

    energy: float
    force: float
    energy_maxresid: float
    force_maxresid: float
    gradient: Array
    stress: float = 0.0
    stress_squares: float = 0.0
    stress_maxresid: float = 0.0
    energy_squares: float = 0.0
    force_squares: float = 0.0


class LossTerms(NamedTuple):
    """A loss and its parts, under Amp's names.

    Attributes
    ----------
    loss : float
        The loss.
    energy_loss : float, eV²
        Σ w ((E - E_ref) / N)².
    force_loss : float, (eV/Å)²
        Σ w |F - F_ref|² / (3 N).
    energy_maxresid : float, eV
        Largest energy error per atom.
    force_maxresid : float, eV/Å
        Largest error of a force component.
    dloss_dparameters : (n_parameters,) float array or None
        Gradient of the loss, where it was asked for.
    stress_loss : float, eV²
        Σ w |V (σ - σ_ref) / N|² / 9; 0 where no stresses are trained, as are the others.
    stress_squares : float, (eV/Å³)²
        Σ |σ - σ_ref|² / 9, as the errors that are reported are made of it: without the weights
        that were given to images, unless they are 0.
    stress_maxresid : float, eV/Å³
        Largest error of a stress component.
    energy_squares, force_squares : float, eV² and (eV/Å)²
        The same of energies and forces: Σ ((E - E_ref) / N)² and Σ |F - F_ref|² / (3 N), N being
        the number of atoms whose forces are trained.
    """

    loss: float
    energy_loss: float
    force_loss: float
    energy_maxresid: float
    force_maxresid: float
    dloss_dparameters: Array | None
    stress_loss: float = 0.0
    stress_squares: float = 0.0
    stress_maxresid: float = 0.0
    energy_squares: float = 0.0
    force_squares: float = 0.0


def loss_sums(
    network: Network,
    vector: Array,
    batches: Iterable[ScaledBatch],
    coefficients: Coefficients,
    *,
    gradient: bool = True,
) -> LossSums:
    """Loss terms and gradient of one rank's images, without the `overfit` term.

    Parameters
    ----------
    network : Network
        Shape of the model.
    vector : (n_parameters,) float array
        Its parameters.
    batches : iterable of ScaledBatch
        The images; one batch is held at a time.
    coefficients : Coefficients
        Weights of the terms.
    gradient : bool
        False leaves the gradient zero and is faster.
    """
    total = np.zeros(network.n_parameters)
    parameters, targets = network.split(vector), network.split(total)
    energy = force = stress = squares = energy_squares = force_squares = 0.0
    energy_max = force_max = stress_max = 0.0
    for scaled in batches:
        # a loss that is not finite is for the caller to see, not to be warned of
        with np.errstate(over="ignore", invalid="ignore"):
            part = _batch_loss(
                network.activation_index,
                parameters,
                targets if gradient else None,
                scaled,
                coefficients,
            )
        energy += part.energy
        force += part.force
        stress += part.stress
        squares += part.stress_squares
        energy_squares += part.energy_squares
        force_squares += part.force_squares
        energy_max = max(energy_max, part.energy_max)
        force_max = max(force_max, part.force_max)
        stress_max = max(stress_max, part.stress_max)
    return LossSums(
        energy, force, energy_max, force_max, total, stress, squares, stress_max,
        energy_squares, force_squares,
    )  # fmt: skip


class _Part(NamedTuple):
    """What one batch adds to the sums, and its largest errors, as in `LossSums`."""

    energy: float
    energy_squares: float
    energy_max: float
    force: float = 0.0
    force_squares: float = 0.0
    force_max: float = 0.0
    stress: float = 0.0
    stress_squares: float = 0.0
    stress_max: float = 0.0


def _batch_loss(
    activation: int,
    parameters: Mapping[str, ElementParameters],
    gradient: Mapping[str, ElementParameters] | None,
    scaled: ScaledBatch,
    coefficients: Coefficients,
) -> _Part:
    """Return sums and largest residuals of one batch; add to `gradient`."""
    batch = scaled.batch
    values, atomic = {}, np.empty(len(batch.image))
    for e, rows in batch.rows.items():
        values[e], atomic[rows] = forward(parameters[e], scaled.x[e], activation)

    totals = np.bincount(batch.image, weights=atomic, minlength=batch.n_images)
    errors = (totals - batch.energies) / batch.n_atoms
    weighted = batch.energy_weights * errors
    energy = float(weighted @ errors)
    energy_squares = float((batch.energy_counts * errors) @ errors)
    energy_max = _largest(errors, batch.energy_counts)
    seeds = (2.0 * coefficients.energy * weighted / batch.n_atoms)[batch.image]

    trains_stress = coefficients.stress is not None and batch.strains is not None
    if coefficients.force is None and not trains_stress:
        if gradient is not None:
            for e, rows in batch.rows.items():
                energy_gradient(
                    parameters[e], gradient[e], scaled.x[e], values[e], seeds[rows], activation
                )
        return _Part(energy, energy_squares, energy_max)

    by_value, by_net = {}, {}
    dE_dG = np.zeros((len(atomic), batch.max_features))
    for e, rows in batch.rows.items():
        by_value[e], by_net[e] = sensitivities(parameters[e], values[e], activation)
        feature_gradient(parameters[e], by_net[e], scaled.factors[e], dE_dG[rows])
    back = np.zeros_like(dE_dG)
    force = _add_forces(batch, dE_dG, coefficients.force, back)
    stress = _add_stresses(batch, dE_dG, coefficients.stress, back) if trains_stress else (0.0,) * 3
    if gradient is not None:
        for e, rows in batch.rows.items():
            tangent_gradient(
                parameters[e],
                gradient[e],
                scaled.x[e],
                values[e],
                by_value[e],
                by_net[e],
                seeds[rows],
                back[rows],
                scaled.factors[e],
                activation,
            )
    return _Part(energy, energy_squares, energy_max, *force, *stress)


def _add_forces(
    batch: Batch, dE_dG: Array, coefficient: float | None, back: Array
) -> tuple[float, float, float]:
    """Fill `back` with what the forces' loss sends back; return its sum, squares, largest error."""
    if coefficient is None:
        return 0.0, 0.0, 0.0
    if batch.primes is None or batch.forces is None:
        raise ModelError(
            f"forces are to be trained, but image {batch.keys[0]} or one read with it has no "
            "forces or no fingerprint primes"
        )
    pull = 2.0 * coefficient * batch.force_weights
    residuals, sent = contract(batch.primes, dE_dG, batch.forces, pull)
    back += sent
    squared, counts = residuals**2, batch.force_counts
    return (
        float((batch.force_weights @ squared).sum()),
        float((counts @ squared).sum()),
        _largest(residuals, counts[:, np.newaxis]),
    )


COMPONENTS = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0]) / 9.0
"""Share of each of the six numbers of a stress in the mean over its nine components."""


def _add_stresses(
    batch: Batch, dE_dG: Array, coefficient: float | None, back: Array
) -> tuple[float, float, float]:
    """Add what the stresses' loss sends back; return its sum, that of squares, largest error."""
    assert coefficient is not None and batch.strains is not None and batch.virials is not None
    by_atom = np.einsum("nvf,nf->vn", batch.strains, dE_dG)
    virials = np.stack(
        [np.bincount(batch.image, weights=one, minlength=batch.n_images) for one in by_atom], axis=1
    )
    residuals = virials - batch.virials
    per_atom = residuals / batch.n_atoms[:, np.newaxis]
    errors = residuals / batch.volumes[:, np.newaxis]
    weights, counts = (
        each[:, np.newaxis] * COMPONENTS for each in (batch.stress_weights, batch.stress_counts)
    )
    pull = 2.0 * coefficient * weights * per_atom / batch.n_atoms[:, np.newaxis]
    back += np.einsum("nv,nvf->nf", pull[batch.image], batch.strains)
    return (
        float((weights * per_atom**2).sum()),
        float((counts * errors**2).sum()),
        _largest(errors, counts),
    )


def _largest(errors: Array, weights: Array) -> float:
    """Largest absolute error of those that count."""
    return float(np.abs(errors).max(where=weights > 0.0, initial=0.0))


def overfit_term(network: Network, vector: Array, overfit: float) -> tuple[float, Array]:
    """Penalty on the weights and its gradient, to be added once, not on every rank."""
    if overfit == 0.0:
        return 0.0, np.zeros_like(vector)
    weights = np.where(network.penalty_mask(), vector, 0.0)
    return overfit * float(weights @ weights), 2.0 * overfit * weights
