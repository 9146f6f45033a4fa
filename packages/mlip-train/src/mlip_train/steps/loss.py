"""Predictions of a batch and their loss: three weighted means, whose parts over processes add up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from localgraph import EdgeModel, energies_and_edge_forces, forces, segment_sum, stress, virial
from mlip_train.config.training import LossConfig, StageConfig
from mlip_train.data.batches import Batch

UNBOUNDED = 1e18
"""A delta above every difference; its square is finite in float32 too, and so are gradients of the branch not taken."""


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
    """Compute energies, forces and stresses of a batch by one derivative with respect to edge vectors.

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
    r, edge_index = batch.edge_vectors, batch.edge_index
    n_frames, n_atoms = batch.atoms.shape[0], batch.types.shape[0]
    atom_energies, g = energies_and_edge_forces(model, r, edge_index, batch.types, create_graph=create_graph)
    energy = segment_sum(atom_energies, batch.frame, n_frames)
    stresses = torch.zeros_like(batch.stress)
    if with_stress:
        stresses = stress(virial(g, r, edge_index, batch.frame, n_frames), batch.volume)
    return Prediction(energy, forces(g, edge_index, n_atoms), stresses)


def error(kind: str, delta: float | Tensor, difference: Tensor) -> Tensor:
    """Elementwise error: x², |x|, or Huber's (x²/2 below δ, δ(|x| − δ/2) above)."""
    if kind == "mse":
        return difference * difference
    if kind == "mae":
        return difference.abs()
    size = difference.abs()
    return torch.where(size < delta, 0.5 * difference * difference, delta * (size - 0.5 * delta))


def stratified_huber(deltas: Mapping[float, float], difference: Tensor, label: Tensor) -> Tensor:
    """Huber's error of vector components, with δ chosen by the size of the labeled vector.

    Parameters
    ----------
    deltas : mapping
        Smallest size of a label to δ from there on; below the smallest key the error is x²/2.
    difference, label : Tensor, (N, 3)
        Prediction minus label, and label.

    Examples
    --------
    >>> label = torch.tensor([[0.1, 0.0, 0.0], [3.0, 4.0, 0.0]])
    >>> stratified_huber({0.0: 0.5, 5.0: 0.1}, torch.ones(2, 3), label)[:, 0]
    tensor([0.3750, 0.0950])
    """
    size = label.norm(dim=-1, keepdim=True)
    delta = torch.full_like(size, UNBOUNDED)
    for bound, value in sorted(deltas.items()):
        delta = torch.where(size >= bound, value, delta)
    return error("huber", delta, difference)


def _error_of(config: LossConfig, term: str, difference: Tensor) -> Tensor:
    """Error of a term with its own kind and delta."""
    kind, delta = getattr(config, f"{term}_kind"), getattr(config, f"{term}_delta")
    return error(kind or config.kind, config.delta if delta is None else delta, difference)


def _element_factors(config: LossConfig, type_names: Sequence[str], types: Tensor) -> Tensor:
    """Factors of the force errors of atoms, (N,) float64.

    Comparisons with numbers, not a table: a compiled step then holds no tensor of its own.
    """
    factors = torch.ones_like(types, dtype=torch.float64)
    for name, factor in config.element_weights.items():
        factors = torch.where(types == type_number(name, type_names), factor, factors)
    return factors


def type_number(name: str, type_names: Sequence[str]) -> int:
    """Return the type that ``loss.element_weights`` names.

    Raises
    ------
    ValueError
        If the model has no such type.
    """
    if name not in type_names:
        raise ValueError(
            f"loss.element_weights must name elements of the model, {list(type_names)}, got {name!r}"
        )
    return list(type_names).index(name)


def loss_terms(
    config: LossConfig, batch: Batch, prediction: Prediction, type_names: Sequence[str] = ()
) -> Tensor:
    """Compute this batch's contribution to the mean errors of energy, forces and stress over the global batch, (3,).

    Each term is Σ weight · error / Σ weight, with the denominator summed over the global batch (``batch.norms``);
    0 where no frame has the label.

    Parameters
    ----------
    config : LossConfig
        Error functions; its weights of the terms are not read.
    batch : Batch
        Labels.
    prediction : Prediction
        Of the batch.
    type_names : sequence of str
        Of the model, for ``config.element_weights``.
    """
    de = prediction.energy - batch.energy
    if config.per_atom:
        de = de / batch.atoms
    df = prediction.forces - batch.forces
    if config.force_deltas:
        force_errors = stratified_huber(config.force_deltas, df, batch.forces)
    else:
        force_errors = _error_of(config, "forces", df)
    weight = batch.force_weight
    if config.element_weights:
        weight = weight * _element_factors(config, type_names, batch.types)
    e = (batch.energy_weight * _error_of(config, "energy", de)).sum()
    f = (weight[:, None] * force_errors).sum()
    s = (
        batch.stress_weight[:, None, None] * _error_of(config, "stress", prediction.stress - batch.stress)
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
    now = [config.energy, config.forces, config.stress or 0.0]
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
