"""Tables of a model's two-body features, as fine as its forces need them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from allegro_model.fold import FoldedAllegro, fold
from allegro_model.forward import Folded, atom_energies, two_body_features
from allegro_model.parameters import Parameters
from allegro_model.radial import polynomial_cutoff
from allegro_model.table import ORDER, TableWeights, polynomials
from localgraph import energies_and_edge_forces, forces

Inputs = tuple[Tensor, Tensor, Tensor]

SMALLEST = 1e-9
"""eV/Å."""
CELLS = 16
"""Parts of the lengths of a pair; of splines as many as there are, so that no interval spans two of their pieces."""
FEWEST, MOST = 4, 256
"""Intervals of a cell."""
LARGEST = 256 * 2**20
"""Bytes of the tables of all pairs."""
POINTS = 32
"""Lengths in a cell that are compared."""
PAIR_MARGIN, GRAPH_MARGIN = 20.0, 4.0
"""Ratios of the tolerance to the errors allowed on two atoms and on graphs: edges add up, and structures differ."""
LARGE = 1.0
"""eV/Å; larger forces of two atoms count by their relative error: models extrapolate to distances that do not occur."""
ROUNDS = 5


def tabulate(
    model: Parameters, tolerance: float, graphs: Iterable[Inputs] = ()
) -> tuple[FoldedAllegro, dict[str, Any]]:
    """Return the module for evaluation with tables, and what was measured; see :meth:`Allegro.tabulated`."""
    if not SMALLEST <= tolerance < float("inf"):
        raise ValueError(f"tolerance must be at least {SMALLEST:g} eV/Å, got {tolerance!r}")
    if (kind := model.config.mlp_dtype) is not None:
        raise ValueError(f"mlp_dtype must be None for tables of the hidden layers, got {kind!r}")
    tables = _Tables(model)
    goal = tolerance / PAIR_MARGIN
    checked = [(inputs, *tables.exact(inputs)) for inputs in graphs]
    for _ in range(ROUNDS):
        of_pairs = max(tables.refine(pair, goal) for pair in range(tables.pairs))
        energy, force = tables.error(checked)
        if force <= tolerance / GRAPH_MARGIN:
            break
        goal *= 0.8 * tolerance / GRAPH_MARGIN / force
    else:
        raise ValueError(
            f"tolerance must be one that tables reach, got {tolerance!r} eV/Å and forces that differ by {force:.2g}"
        )
    counts = [sum(row) for row in tables.intervals]
    report = {
        "tolerance": tolerance,
        "max_force": max(of_pairs, force),
        "max_energy": energy,
        "intervals": [min(counts), max(counts)],
        "bytes": tables.bytes(),
    }
    with torch.no_grad():
        folded = fold(model)
    like, exact = folded.tensor_embed, tables.weights()
    table = TableWeights(
        exact.intervals.to(like.device),
        exact.first.to(like.device),
        exact.hidden.to(like),
        exact.tensor.to(like),
    )
    return FoldedAllegro(model, folded._replace(two_body=table, embed_hidden=())), report


class _Tables:
    """Tables of a model in float64, and the model to compare them with."""

    def __init__(self, model: Parameters):
        c = model.config
        copy = type(model)(dataclasses.replace(c, dtype="float64", fused_layers=False))
        copy.load_state_dict(model.state_dict())
        self.fixed, self.names = copy.fixed, c.type_names
        with torch.no_grad():
            self.folded: Folded = fold(copy)
        self.columns = sum(self.folded.tensor_embed.flatten(1).shape)
        self.itemsize = torch.empty((), dtype=model.dtype).element_size()
        self.cells = c.num_splines if c.radial_embedding == "spline" else CELLS
        self.pairs = len(c.type_names) ** 2
        self.intervals = [[FEWEST] * self.cells for _ in range(self.pairs)]
        self._check_size()
        self.parts: list[Tensor | None] = [None] * self.pairs

    def bytes(self) -> int:
        """Return the size of all tables."""
        return sum(map(sum, self.intervals)) * ORDER * self.columns * self.itemsize

    def _check_size(self) -> None:
        size = self.bytes()
        if size > LARGEST:
            raise ValueError(
                f"tables must take at most {LARGEST / 2**20:.0f} MiB, got {size / 2**20:,.0f} MiB or more for the "
                f"{self.pairs:,} pairs of {len(self.names)} types, with {self.columns} columns"
            )

    def exact(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return energies and edge forces of the model."""
        return energies_and_edge_forces(partial(atom_energies, self.fixed, self.folded), *inputs)

    def _tabulated(self, w: TableWeights, inputs: Inputs) -> tuple[Tensor, Tensor]:
        folded = self.folded._replace(two_body=w)
        return energies_and_edge_forces(partial(atom_energies, self.fixed, folded), *inputs)

    def _polynomials(self, pair: int) -> Tensor:
        def features(x: Tensor) -> Tensor:
            envelope = polynomial_cutoff(x, self.fixed.cutoff_exponent)
            index = torch.full_like(x, pair, dtype=torch.int64)
            return torch.cat(two_body_features(self.fixed, self.folded, x, envelope, index), 1)

        return polynomials(features, self.intervals[pair])

    def refine(self, pair: int, goal: float) -> float:
        """Make the table of a pair finer until the forces of two atoms are within the goal; return their error."""
        reference = self._two_atoms(pair, list(range(self.cells)), self.exact)
        scale = reference.norm(dim=2, keepdim=True).clamp(min=LARGE) / LARGE
        errors, coarse = [0.0] * self.cells, list(range(self.cells))
        while coarse:
            if self.parts[pair] is None:
                self.parts[pair] = self._polynomials(pair)
            alone = self._weights([pair])
            alone = alone._replace(
                intervals=alone.intervals.repeat(self.pairs), first=alone.first.repeat(self.pairs)
            )
            evaluate = partial(self._tabulated, alone)
            difference = self._two_atoms(pair, coarse, evaluate) - reference[coarse]
            for cell, error in zip(
                coarse, (difference.abs() / scale[coarse]).amax((1, 2)).tolist(), strict=True
            ):
                errors[cell] = error
            coarse = [cell for cell in coarse if not errors[cell] <= goal]
            for cell in coarse:
                self._grow(pair, cell, errors[cell], goal)
            self._check_size()
        return max(errors)

    def _grow(self, pair: int, cell: int, error: float, goal: float) -> None:
        before = self.intervals[pair][cell]
        more = max(1.1 * before * (error / goal) ** 0.2, before + 1)  # the error is of fifth order
        if not more <= MOST:
            names = "-".join(self.names[t] for t in divmod(pair, len(self.names)))
            length = (cell + 0.5) / self.cells * float(self.folded.cutoffs[pair])
            raise ValueError(
                f"tables must have at most {MOST} intervals in 1/{self.cells} of a cutoff, got more near "
                f"{length:.2g} Å of {names} with a force error of {error:.2g} eV/Å at {before}, goal {goal:.2g}"
            )
        self.intervals[pair][cell], self.parts[pair] = int(more), None

    def _two_atoms(
        self, pair: int, cells: list[int], evaluate: Callable[[Inputs], tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Return forces (cells, POINTS, 3) of two atoms at lengths in these cells, near 0 and the cutoff too."""
        offsets = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS
        x = (torch.arange(self.cells).unsqueeze(1) + offsets) / self.cells
        x[0, 0], x[-1, -1] = 1e-3, 1.0 - 1e-6
        r = x[cells].view(-1, 1) * self.folded.cutoffs[pair]
        direction = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) / 14**0.5
        edges, count = torch.arange(len(r)), len(self.names)
        center, neighbor = divmod(pair, count)
        types = torch.cat([torch.full_like(edges, center), torch.arange(count)])
        index = torch.stack([edges, torch.full_like(edges, len(r) + neighbor)])
        return evaluate((r * direction, index, types))[1].view(len(cells), POINTS, 3)

    def error(self, checked: list[tuple[Inputs, Tensor, Tensor]]) -> tuple[float, float]:
        """Return the largest differences of energies, and of forces of atoms and edges."""
        w, energy, force = self.weights(), 0.0, 0.0
        for inputs, energies, reference in checked:
            e, g = self._tabulated(w, inputs)
            of_atoms = forces(g - reference, inputs[1], len(inputs[2]))
            for difference in (g - reference, of_atoms):
                force = max(force, *difference.abs().flatten().tolist(), 0.0)
            energy = max(energy, *(e - energies).abs().tolist(), 0.0)
        return energy, force

    def weights(self) -> TableWeights:
        """Return the tables of all pairs."""
        return self._weights(range(self.pairs))

    def _weights(self, pairs: Iterable[int]) -> TableWeights:
        kept = list(pairs)
        intervals = torch.tensor([n for pair in kept for n in self.intervals[pair]])
        table = torch.cat([part for pair in kept if (part := self.parts[pair]) is not None])
        hidden = self.folded.tensor_embed.shape[0]
        return TableWeights(
            intervals.double(),
            intervals.cumsum(0) - intervals,
            table[:, :hidden].contiguous(),
            table[:, hidden:].contiguous(),
        )
