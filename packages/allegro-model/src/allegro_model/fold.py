"""Folding of a model's weights, and the model with folded weights for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from allegro_model.checks import check_inputs
from allegro_model.forward import Folded, atom_energies
from allegro_model.mlp import MLP
from allegro_model.pair import LENGTHS_AND_ENERGIES, symmetric
from allegro_model.parameters import Parameters, keeping_dtypes
from allegro_model.radial import BesselWeights, SplineWeights


def fold(model: Parameters) -> Folded:
    """Return the weights as the forward pass applies them, with consecutive linear maps multiplied together.

    Exact algebra, differentiable, and tiny beside the edges. The last matrix of an MLP is multiplied into the
    linear maps that read it; the map to density weights is left for the atoms, since it commutes with the sum
    over neighbors.
    """
    c = model.config
    s, u, rows = c.num_scalar_features, c.num_tensor_features, c.l_max + 1
    *embed_hidden, embed_last = model.scalar_embed.scaled_weights()
    (project,) = model.first_projection.scaled_weights()
    (tensor_embed,) = model.tensor_embed.scaled_weights()
    readout = model.readout.scaled_weights()

    # s⁰ = hidden⁰ · first: whoever reads s⁰ reads hidden⁰ instead where that is no wider
    first = embed_last @ project[:, :s]
    through = first.shape[0] <= s

    def read(matrix: Tensor) -> Tensor:
        return torch.cat([first @ matrix[:s], matrix[s:]]) if through else matrix

    def per_component(matrix: Tensor) -> Tensor:
        """Return density weights (D, H, C); one for all degrees where they are not individual."""
        weights = matrix.reshape(matrix.shape[0], -1, u).transpose(0, 1)
        sizes = [2 * ell + 1 for ell in range(rows)] if weights.shape[0] == rows else [rows * rows]
        return torch.cat(
            [w.expand(size, -1, -1) for w, size in zip(torch.split(weights, 1), sizes, strict=True)]
        )

    latents = []
    for mlp in model.latents:
        matrix, *more = cast(MLP, mlp).scaled_weights()
        latents.append([read(matrix), *more])
    scalar_maps: list[tuple[Tensor, ...]] = [() if through else (first,)]
    density_maps = [per_component(embed_last @ project[:, s:])]
    for *_, last in latents[:-1]:
        scalar_maps.append((last[:, :s],))
        density_maps.append(per_component(last[:, s:]))
    own = (
        len(latents) * s
    )  # rows of the readout from here on read the last layer's scalars, which no latent reads
    head = torch.cat([read(readout[0][:own]), latents[-1][-1] @ readout[0][own:]])
    tables = [getattr(model, "lj_" + name) for name in LENGTHS_AND_ENERGIES if c.lennard_jones is not None]
    return Folded(
        cutoffs=model.cutoff_table.flatten(),
        two_body=_two_body(model),
        embed_hidden=tuple(embed_hidden),
        tensor_embed=(embed_last @ tensor_embed).view(-1, rows, u),
        scalar_maps=tuple(scalar_maps),
        density_maps=tuple(density_maps),
        products=tuple(model.products),
        latent_hidden=tuple(tuple(matrices[:-1]) for matrices in latents),
        readout=(head, *readout[1:]),
        density_norm=model.density_norm.to(model.dtype),
        energy_scales=model.energy_scales,
        energy_shifts=model.energy_shifts,
        atomic_numbers=model.atomic_numbers,
        lennard_jones=tuple(symmetric(table).flatten() for table in tables),
    )


def _two_body(model: Parameters) -> BesselWeights | SplineWeights:
    if model.config.radial_embedding == "spline":
        return SplineWeights(model.spline_coefficients.flatten(0, 1).to(model.dtype))
    num_types = len(model.config.type_names)
    center = model.center_embedding.repeat_interleave(num_types, 0)
    neighbor = model.neighbor_embedding.repeat(num_types, 1)
    (basis,) = model.basis_linear.scaled_weights()
    return BesselWeights(model.bessel_frequencies, basis, torch.cat([center, neighbor], dim=1))


class FoldedAllegro(nn.Module):
    """An Allegro model for evaluation: the same energies, with all that depends on weights alone computed once."""

    def __init__(self, model: Parameters, folded: Folded | None = None):
        super().__init__()
        self.fixed, self.dtype = model.fixed, model.config.dtype
        c = model.config
        self.type_names, self.elements = tuple(c.type_names), c.element_of_types()
        self.cutoff, self.cutoffs = c.cutoff, torch.tensor(c.cutoff_matrix(), dtype=torch.float64)
        with torch.no_grad():
            leaves, self._shape = tree_flatten(fold(model) if folded is None else folded)
        for position, leaf in enumerate(leaves):
            self.register_buffer(f"folded_{position}", leaf.detach().clone(), persistent=False)

    def forward(self, edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> Tensor:
        """Compute atom energies (N,) float64 eV from the arguments of :meth:`allegro_model.Allegro.forward`."""
        check_inputs(edge_vectors, edge_index, types, len(self.type_names))
        folded = tree_unflatten([leaf for _, leaf in self.named_buffers()], self._shape)
        return atom_energies(self.fixed, folded, edge_vectors, edge_index, types)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(  # type: ignore[no-untyped-call,no-any-return]
            keeping_dtypes(fn, self.dtype), recurse
        )
