"""Layers by equitensor's fused operator, whose hidden layers stay on chip where it has a kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from equitensor import edge_layer


def edge_energies(
    latents: Sequence[Sequence[Tensor]],
    scalar_maps: Sequence[Sequence[Tensor]],
    head: Tensor,
    scalars: Tensor,
    two_body: Tensor,
    y: Tensor,
    covector: Callable[[Tensor], Tensor],
    first_density: Tensor,
    center: Tensor,
    offsets: Tensor,
) -> Tensor:
    """Compute the energy of each edge before norm and scale, (E,): latents of two hidden layers, a linear readout.

    Parameters
    ----------
    latents : sequence of pairs of Tensor
        The two matrices of each layer's latent.
    scalar_maps : sequence of Tensor, each one (H, S)
        Of each latent but the last: what later readers read of its hidden layer.
    head : Tensor, (Σ S + H, 1)
        The readout.
    scalars : Tensor, (E, S)
        What every latent reads of the two-body embedding.
    two_body, y : Tensor, (E, R, C) and (E, D)
        The factors of the edges' two-body tensor.
    covector : callable
        Takes the sums (N, D, H) of a layer's hidden layer and returns the next layer's covector (N, D, C).
    first_density : Tensor, (N, D, H)
        The sums of the two-body embedding's hidden layer.
    center, offsets : Tensor
        Edges.
    """
    parts, sums = [scalars], first_density
    for k, (first, second) in enumerate(latents):
        final, given = k + 1 == len(latents), torch.cat(parts, 1) if k else scalars
        matrix = head[given.shape[1] :] if final else scalar_maps[k][0]
        edges = (center, offsets)
        out, sums = edge_layer(
            given, two_body, y, covector(sums), *edges, first, second, matrix, density=not final
        )
        parts.append(out)
    # part by part: the gradient of concatenated parts would be one more pass over the edges
    *read, last = parts
    columns = torch.split(head[: given.shape[1], 0], [part.shape[1] for part in read])
    terms = [(part * column).sum(1) for part, column in zip(read, columns, strict=True)]
    total: Tensor = sum(terms, last.flatten())
    return total
