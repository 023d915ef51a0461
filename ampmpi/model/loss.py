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
from typing import NamedTuple

import numpy as np

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
        {e: network_input(v, fpranges[e]) for e, v in batch.features.items()},
        {e: feature_scaling(fpranges[e]) for e in batch.features},
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

    def weighted(self, sums: LossSums) -> float:
        """Return the weighted sum of both terms, without the `overfit` term."""
        return self.energy * sums.energy + (self.force or 0.0) * sums.force


class LossSums(NamedTuple):
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
    """

    loss: float
    energy_loss: float
    force_loss: float
    energy_maxresid: float
    force_maxresid: float
    dloss_dparameters: Array | None


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
    energy = force = energy_max = force_max = 0.0
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
        energy += part[0]
        force += part[1]
        energy_max = max(energy_max, part[2])
        force_max = max(force_max, part[3])
    return LossSums(energy, force, energy_max, force_max, total)


def _batch_loss(
    activation: int,
    parameters: Mapping[str, ElementParameters],
    gradient: Mapping[str, ElementParameters] | None,
    scaled: ScaledBatch,
    coefficients: Coefficients,
) -> tuple[float, float, float, float]:
    """Energy and force sums and largest residuals of one batch; adds to `gradient`."""
    batch = scaled.batch
    values, atomic = {}, np.empty(len(batch.image))
    for e, rows in batch.rows.items():
        values[e], atomic[rows] = forward(parameters[e], scaled.x[e], activation)

    totals = np.bincount(batch.image, weights=atomic, minlength=batch.n_images)
    errors = (totals - batch.energies) / batch.n_atoms
    weighted = batch.energy_weights * errors
    energy = float(weighted @ errors)
    energy_max = _largest(errors, batch.energy_weights)
    seeds = (2.0 * coefficients.energy * weighted / batch.n_atoms)[batch.image]

    if coefficients.force is None:
        if gradient is not None:
            for e, rows in batch.rows.items():
                energy_gradient(
                    parameters[e], gradient[e], scaled.x[e], values[e], seeds[rows], activation
                )
        return energy, 0.0, energy_max, 0.0

    if batch.primes is None or batch.forces is None:
        raise ModelError(
            f"forces are to be trained, but image {batch.keys[0]} or one read with it has no "
            "forces or no fingerprint primes"
        )
    by_value, by_net = {}, {}
    dE_dG = np.zeros((len(atomic), batch.primes.shape[2]))
    for e, rows in batch.rows.items():
        by_value[e], by_net[e] = sensitivities(parameters[e], values[e], activation)
        feature_gradient(parameters[e], by_net[e], scaled.factors[e], dE_dG[rows])
    pull = 2.0 * coefficients.force * batch.force_weights
    residuals, back = contract(batch.primes, dE_dG, batch.forces, pull)
    force = float((batch.force_weights @ residuals**2).sum())
    force_max = _largest(residuals, batch.force_weights[:, np.newaxis])
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
    return energy, force, energy_max, force_max


def _largest(errors: Array, weights: Array) -> float:
    """Largest absolute error of those that count."""
    return float(np.abs(errors).max(where=weights > 0.0, initial=0.0))


def overfit_term(network: Network, vector: Array, overfit: float) -> tuple[float, Array]:
    """Penalty on the weights and its gradient, to be added once, not on every rank."""
    if overfit == 0.0:
        return 0.0, np.zeros_like(vector)
    weights = np.where(network.penalty_mask(), vector, 0.0)
    return overfit * float(weights @ weights), 2.0 * overfit * weights
