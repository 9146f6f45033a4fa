"""Comparison of the compiled with the eager step before training, on every kind of batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from localgraph import EdgeModel
from mlip_train.config.machine import CompileConfig
from mlip_train.config.training import LossConfig
from mlip_train.data.batches import Batch, collate
from mlip_train.data.plan import Plan
from mlip_train.steps.compiled import CompiledStep, compile_step
from mlip_train.steps.eager import EagerStep, Step, trained_parameters
from mlip_train.steps.errors import CompileError
from mlip_train.steps.forces import ForcesStep


class Difference(NamedTuple):
    """Largest differences between a step and the eager one.

    Attributes
    ----------
    loss : float
        Of the loss, relative.
    gradient : float
        Of any parameter's gradient, relative to the norm of the whole gradient.
    energy : float
        eV per atom.
    forces : float
        eV/Å.
    """

    loss: float
    gradient: float
    energy: float
    forces: float


def gradients(step: Step, model: nn.Module, batch: Batch, coefficients: Tensor) -> tuple[Any, list[Tensor]]:
    """Return a step's result and gradients (zeros where there are none), leaving ``.grad`` unchanged."""
    parameters = list(trained_parameters(model).values())
    result = step(batch, coefficients)
    found = torch.autograd.grad(result.loss, parameters, allow_unused=True)
    return result, [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def compare(step: Step, reference: Step, model: nn.Module, batch: Batch, coefficients: Tensor) -> Difference:
    """Differences between two steps on one batch."""
    a, ga = gradients(step, model, batch, coefficients)
    b, gb = gradients(reference, model, batch, coefficients)
    norm = float(torch.sqrt(sum(((g.double() ** 2).sum() for g in gb), torch.zeros((), dtype=torch.float64))))
    worst = max((float((x - y).double().norm()) for x, y in zip(ga, gb, strict=True)), default=0.0)
    energy = (a.prediction.energy - b.prediction.energy).abs() / batch.atoms
    forces = (a.prediction.forces - b.prediction.forces).abs()
    return Difference(
        abs(float(a.loss.detach() - b.loss.detach())) / max(abs(float(b.loss.detach())), 1e-30),
        worst / max(norm, 1e-30),
        float(energy.max()) if energy.numel() else 0.0,
        float(forces.max()) if forces.numel() else 0.0,
    )


def with_isolated_atom(batch: Batch) -> Batch:
    """Append a frame of one isolated atom whose energy label has weight zero."""
    one = batch.atoms.new_ones(1)
    return batch._replace(
        positions=torch.cat([batch.positions, batch.positions.new_zeros(1, 3)]),
        cells=torch.cat([batch.cells, batch.cells.new_zeros(1, 3, 3)]),
        types=torch.cat([batch.types, batch.types.new_zeros(1)]),
        frame=torch.cat([batch.frame, batch.frame.new_full((1,), batch.atoms.shape[0])]),
        atoms=torch.cat([batch.atoms, one]),
        volume=torch.cat([batch.volume, one]),
        energy=torch.cat([batch.energy, 0 * one]),
        forces=torch.cat([batch.forces, batch.forces.new_zeros(1, 3)]),
        stress=torch.cat([batch.stress, batch.stress.new_zeros(1, 3, 3)]),
        energy_weight=torch.cat([batch.energy_weight, 0 * one]),
        force_weight=torch.cat([batch.force_weight, one]),
        stress_weight=torch.cat([batch.stress_weight, 0 * one]),
        subset=torch.cat([batch.subset, batch.subset.new_zeros(1)]),
        row=torch.cat([batch.row, batch.row.new_full((1,), -1)]),
    )


def batch_kinds(plan: Plan) -> dict[str, Batch]:
    """Build the batches that a compiled step is verified on: full, one frame, with an isolated atom."""
    batch = collate(plan.table, *Plan(plan.table, plan.rows, plan.config, plan.seed).batch(0))
    one = collate(plan.table, plan.rows[:1])
    return {"batch": batch, "one frame": one, "with an isolated atom": with_isolated_atom(one)}


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute products of float32 matrices without rounding their operands, whatever the process is set to."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def verify(
    step: Step,
    reference: Step,
    model: nn.Module,
    kinds: Mapping[str, Batch],
    coefficients: Tensor,
    tolerance: float,
) -> dict[str, Difference]:
    """Compare a step with a reference on several kinds of batch, in full precision of float32 products.

    With TF32 or bf16 products the two would differ by the rounding of other sums, which would hide what is wrong.
    Products read the setting when they run, so the step that was compared is the one that trains.

    Raises
    ------
    CompileError
        Naming the kind of batch, the differences and the tolerance on relative loss and gradient.
    """
    found = {}
    for kind, batch in kinds.items():
        with full_precision():
            found[kind] = d = compare(step, reference, model, batch, coefficients)
        if not max(d.loss, d.gradient) <= tolerance:
            raise CompileError(
                f"compiled step must agree with eager to {tolerance:g} on every batch, got on a batch of kind "
                f"{kind!r}: loss {d.loss:.2e} (relative), gradient {d.gradient:.2e} (relative), energy {d.energy:.2e} "
                f"eV/atom, forces {d.forces:.2e} eV/Å"
            )
    return found


def tolerance_for(model: nn.Module, config: CompileConfig) -> float:
    """Return the configured tolerance, or by default 1e-9 for float64 models and 2e-3 for others.

    0.25 where hidden layers are in bfloat16: eager rounds after every operation, a compiled step after fused ones, and
    gradients of the forces differ by about a tenth from those of float64.
    """
    if config.tolerance:
        return config.tolerance
    if cast(EdgeModel, model).to_config().get("mlp_dtype"):
        return 0.25
    double = all(p.dtype == torch.float64 for p in model.parameters() if p.is_floating_point())
    return 1e-9 if double else 2e-3


def verified_step(
    model: nn.Module,
    loss: LossConfig,
    config: CompileConfig,
    kinds: Mapping[str, Batch],
    coefficients: Tensor,
    with_stress: bool = False,
) -> tuple[EagerStep | ForcesStep | CompiledStep, dict[str, Difference]]:
    """Build the configured step and compare it with eager on every kind of batch.

    Returns
    -------
    step, dict of str to Difference
        With ``fallback: warn``, the eager step and no differences after a warning that says why.

    Raises
    ------
    CompileError
        With ``fallback: error``, if compilation or the comparison fails.
    """
    eager = EagerStep(model, loss, with_stress)
    if config.mode == "eager":
        return eager, {}
    try:
        step = compile_step(model, loss, config.mode, with_stress, config.evaluate)
        return step, verify(step, eager, model, kinds, coefficients, tolerance_for(model, config))
    except Exception as e:
        if config.fallback == "error":
            if isinstance(e, CompileError):
                raise
            raise CompileError(f"compile.mode {config.mode!r}: {type(e).__name__}: {e}") from e
        warnings.warn(
            f"training runs eager: compile.mode {config.mode!r} failed: {type(e).__name__}: {e}", stacklevel=2
        )
        return eager, {}
