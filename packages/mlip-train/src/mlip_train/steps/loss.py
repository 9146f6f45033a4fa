"""Predictions of a batch and their loss: three weighted means, whose parts over processes add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from localgraph import EdgeModel, energies_and_edge_forces, forces, segment_sum, stress, virial
from mlip_train.config.training import LossConfig, StageConfig
from mlip_train.data.batches import Batch


class Prediction(NamedTuple):
    """Predictions for a batch.

    Attributes
    ----------
    energy : Tensor, (F,) float64
        eV.
    forces : Tensor, (N, 3) float64
        eV/Å.
    stress : Tensor, (F, 3, 3) float64
        eV/Å³, positive under tension; zero where it was not asked for.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor


def predict(
    model: EdgeModel | Callable[[Tensor, Tensor, Tensor], Tensor],
    batch: Batch,
    create_graph: bool = False,
    with_stress: bool = True,
) -> Prediction:
    """Energies, forces and stresses of a batch by one derivative with respect to edge vectors.

    F_i = Σ_{c(e)=i} g_e − Σ_{n(e)=i} g_e and σ = sym(Σ_e r_e ⊗ g_e)/V, with g_e = ∂(Σ E_i)/∂r_e.

    Parameters
    ----------
    model : EdgeModel
        Atom energies from edges (see :class:`localgraph.EdgeModel`).
    batch : Batch
        Frames.
    create_graph : bool
        Keep the graph, to differentiate a loss of forces.
    with_stress : bool
        Compute stresses.
    """
    r = batch.edge_vectors
    n_frames, n_atoms = batch.atoms.shape[0], batch.types.shape[0]
    atom_energies, g = energies_and_edge_forces(
        model, r, batch.edge_index, batch.types, create_graph=create_graph
    )
    energy = segment_sum(atom_energies, batch.frame, n_frames)
    stresses = torch.zeros_like(batch.stress)
    if with_stress:
        stresses = stress(virial(g, r, batch.edge_index, batch.frame, n_frames), batch.volume)
    return Prediction(energy, forces(g, batch.edge_index, n_atoms), stresses)


def error(kind: str, delta: float, difference: Tensor) -> Tensor:
    """Elementwise error: x², |x|, or Huber's (x²/2 below δ, δ(|x| − δ/2) above)."""
    if kind == "mse":
        return difference * difference
    if kind == "mae":
        return difference.abs()
    size = difference.abs()
    return torch.where(size < delta, 0.5 * difference * difference, delta * (size - 0.5 * delta))


def loss_terms(config: LossConfig, batch: Batch, prediction: Prediction) -> Tensor:
    """Compute mean errors of energy, forces and stress, (3,), as this batch's share of the global batch.

    Each term is Σ weight · error / Σ weight, with the denominator summed over the global batch (``batch.norms``);
    0 where no frame has the label.
    """
    de = prediction.energy - batch.energy
    if config.per_atom:
        de = de / batch.atoms
    e = (batch.energy_weight * error(config.kind, config.delta, de)).sum()
    f = (
        batch.force_weight[:, None] * error(config.kind, config.delta, prediction.forces - batch.forces)
    ).sum()
    s = (
        batch.stress_weight[:, None, None]
        * error(config.kind, config.delta, prediction.stress - batch.stress)
    ).sum()
    return torch.stack([e, f, s]) / torch.where(batch.norms > 0, batch.norms, 1.0)


def coefficients(
    config: LossConfig, stages: tuple[StageConfig, ...], epoch: int
) -> tuple[float, float, float]:
    """Weights of energy, forces and stress in an epoch, after the stages that have begun.

    Examples
    --------
    >>> coefficients(LossConfig(energy=1.0, forces=10.0), (StageConfig(epoch=4, energy=9.0, ramp=2),), 4)
    (5.0, 10.0, 0.0)
    """
    now = [config.energy, config.forces, config.stress]
    for stage in sorted(stages, key=lambda s: s.epoch):
        if epoch < stage.epoch:
            break
        part = min(1.0, (epoch - stage.epoch + 1) / stage.ramp) if stage.ramp else 1.0
        for i, target in enumerate((stage.energy, stage.forces, stage.stress)):
            if target is not None:
                now[i] += part * (target - now[i])
    return now[0], now[1], now[2]


def final_coefficients(
    config: LossConfig, stages: tuple[StageConfig, ...], epoch: int
) -> tuple[float, float, float]:
    """Return the loss weights at the end of ramps begun by an epoch."""
    return coefficients(config, tuple(replace(stage, ramp=0) for stage in stages), epoch)


def uses(config: LossConfig, stages: tuple[StageConfig, ...]) -> tuple[bool, bool, bool]:
    """Whether energy, forces and stress ever have a weight that is not zero."""
    rows = [(config.energy, config.forces, config.stress), *((s.energy, s.forces, s.stress) for s in stages)]
    e, f, s = (any(row[i] for row in rows) for i in range(3))
    return e, f, s
