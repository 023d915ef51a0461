"""The loss of a training and its gradient, on the images of one rank.

As in Amp, with E the energies, F the forces, N_i the atoms of image i, and w_i its weight,

    L = c_E Σ_i w_i ((E_i - E_i,ref) / N_i)² + c_F Σ_i w_i Σ_md (F_md - F_md,ref)² / (3 N_i),

plus `overfit` times the squared norm of the first layers' weights.

The gradient of the force term needs no loop over forces. With
``F_m = -Σ_n dG_n/dR_m · dE_n/dG_n`` a change of the parameters changes it by
``Σ_n back_n · δ(dE_n/dG_n)``, where ``back_n = -Σ_m dL/dF_m · dG_n/dR_m`` is one vector
for each atom: a directional derivative, which `tangent_gradient` differentiates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ampmpi.errors import ModelError
from ampmpi.model.batch import Batch
from ampmpi.model.contraction import force_terms
from ampmpi.model.network import (
    Array,
    Network,
    energy_gradient,
    forward,
    sensitivities,
    tangent_gradient,
)
from ampmpi.model.scaling import feature_scaling, scale_features


@dataclass(frozen=True, eq=False)
class ScaledBatch:
    """A batch with its features scaled for one model.

    Attributes
    ----------
    batch : Batch
        The images.
    x : mapping of str to (n_atoms of the element, n_features) float array
        Scaled features.
    factors : mapping of str to (n_features,) float array
        dx/dG.
    """

    batch: Batch
    x: Mapping[str, Array]
    factors: Mapping[str, Array]


def scale_batch(batch: Batch, fpranges: Mapping[str, Array]) -> ScaledBatch:
    """Scale a batch's features with a model's ranges."""
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
    return ScaledBatch(
        batch,
        {e: scale_features(v, fpranges[e]) for e, v in batch.features.items()},
        {e: feature_scaling(fpranges[e])[0] for e in batch.features},
    )


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
    """

    energy: float = 1.0
    force: float | None = 0.04
    overfit: float = 0.0


@dataclass(frozen=True, eq=False)
class LossSums:
    """Sums over some images; those of several ranks add up.

    Attributes
    ----------
    energy : float, eV²
        Σ w ((E - E_ref) / N)².
    force : float, (eV/Å)²
        Σ w |F - F_ref|² / (3 N).
    energy_maxresid : float, eV
        Largest energy error per atom.
    force_maxresid : float, eV/Å
        Largest error of a force component.
    gradient : (n_parameters,) float array
        Derivative of the weighted sum of both.
    """

    energy: float
    force: float
    energy_maxresid: float
    force_maxresid: float
    gradient: Array


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
    energy = force = energy_max = force_max = 0.0
    for scaled in batches:
        # a loss that is not finite is for the caller to see, not to be warned of
        with np.errstate(over="ignore", invalid="ignore"):
            part = _batch_loss(network, vector, scaled, coefficients, gradient, total)
        energy += part[0]
        force += part[1]
        energy_max = max(energy_max, part[2])
        force_max = max(force_max, part[3])
    return LossSums(energy, force, energy_max, force_max, total)


def _batch_loss(
    network: Network,
    vector: Array,
    scaled: ScaledBatch,
    coefficients: Coefficients,
    with_gradient: bool,
    total: Array,
) -> tuple[float, float, float, float]:
    """Energy and force sums and largest residuals of one batch; adds to the gradient `total`."""
    batch = scaled.batch
    parameters = network.split(vector)
    targets = network.split(total)
    states = {e: forward(parameters[e], x, network.activation) for e, x in scaled.x.items()}

    atomic = np.empty(int(batch.atom_start[-1]))
    for element, state in states.items():
        atomic[batch.rows[element]] = state.energies
    errors = np.add.reduceat(atomic, batch.atom_start[:-1]) - batch.energies
    errors /= batch.n_atoms
    energy = float(batch.energy_weights @ errors**2)
    counted = batch.energy_weights > 0
    energy_max = float(np.abs(errors[counted]).max(initial=0.0))
    seeds = np.repeat(
        2.0 * coefficients.energy * batch.energy_weights * errors / batch.n_atoms, batch.n_atoms
    )

    with_forces = coefficients.force is not None
    if not with_forces and not with_gradient:
        return energy, 0.0, energy_max, 0.0
    deltas = {e: sensitivities(parameters[e], state) for e, state in states.items()}
    if not with_forces:
        for element, state in states.items():
            energy_gradient(
                parameters[element],
                targets[element],
                state,
                deltas[element][0],
                seeds[batch.rows[element]],
            )
        return energy, 0.0, energy_max, 0.0

    if batch.primes is None or batch.forces is None:
        raise ModelError(
            f"forces are to be trained, but image {batch.keys[0]} or one read with it has no "
            "forces or no fingerprint primes"
        )
    dE_dG = np.zeros((len(atomic), batch.primes.shape[2]))
    for element, (_, dE_dx) in deltas.items():
        dE_dG[batch.rows[element], : dE_dx.shape[1]] = dE_dx * scaled.factors[element]
    residuals = np.empty((len(atomic), 3))
    back = np.empty_like(dE_dG)
    force_terms(
        batch.atom_start,
        batch.pair_start,
        batch.moved,
        batch.centres,
        batch.primes,
        dE_dG,
        batch.forces,
        2.0 * (coefficients.force or 0.0) * batch.force_weights,
        residuals,
        back,
    )
    force = float(batch.force_weights @ (residuals**2).sum(axis=1))
    counted = batch.force_weights > 0
    force_max = float(np.abs(residuals[counted]).max(initial=0.0))
    if with_gradient:
        for element, state in states.items():
            rows = batch.rows[element]
            factor = scaled.factors[element]
            tangent_gradient(
                parameters[element],
                targets[element],
                state,
                deltas[element][0],
                seeds[rows],
                back[rows, : len(factor)] * factor,
                network.activation,
            )
    return energy, force, energy_max, force_max


def overfit_term(network: Network, vector: Array, overfit: float) -> tuple[float, Array]:
    """Penalty on the weights and its gradient, to be added once, not on every rank."""
    if overfit == 0.0:
        return 0.0, np.zeros_like(vector)
    weights = np.where(network.penalty_mask(), vector, 0.0)
    return overfit * float(weights @ weights), 2.0 * overfit * weights
