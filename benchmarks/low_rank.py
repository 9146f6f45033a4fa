"""Force errors of smaller copies of a trained model: low-rank latents, and latents with fewer hidden features.

    python -m benchmarks.low_rank MODEL.safetensors FRAMES.xyz [--frames 40]

Half of the frames show which directions of the hidden layers matter, the other half measure the error, both in
float64. ``rank`` replaces a matrix of a latent by two factors, best for the second moments of its inputs, where they
have fewer elements. ``width`` keeps some hidden features (pivoted QR of their values) and replaces the others by linear
combinations of them, which the next matrices absorb. Multiply-adds are those of an edge's matrix products, forward.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import ase.io
import numpy as np
import scipy.linalg
import torch
from torch import Tensor

import localgraph
from allegro_model import forward
from allegro_model.fold import fold
from allegro_model.forward import Folded
from allegro_model.mlp import hidden_layers

TAILS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4)
"""Norm of what is left out, over the norm of all."""


def graph_of(model: Any, atoms: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return edge vectors, edges and types of a frame."""
    x, cell = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array) if atoms.pbc.any() else None
    types = localgraph.types_of(atoms.get_chemical_symbols(), model.type_names)
    pbc = tuple(map(bool, atoms.pbc))
    graph = localgraph.neighbors(x, model.cutoffs, cell=cell, pbc=pbc, types=types)
    return localgraph.edge_vectors(x, graph, cell), graph.edge_index, types


def results(model: Any, w: Folded, graphs: list[Any]) -> tuple[Tensor, Tensor]:
    """Return energies per atom of the graphs and the forces of all atoms."""
    energies, forces = [], []
    for vectors, index, types in graphs:
        evaluate = partial(forward.atom_energies, model.fixed, w)
        e, g = localgraph.energies_and_edge_forces(evaluate, vectors, index, types)
        energies.append(e.mean())
        forces.append(localgraph.forces(g, index, len(types)))
    return torch.stack(energies), torch.cat(forces)


def layers_of(model: Any, w: Folded, graphs: list[Any]) -> dict[int, tuple[Tensor, Tensor]]:
    """Return inputs and values of the hidden layer behind each matrix of a latent, all edges, by the matrix's id."""
    seen: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def recorded(x: Tensor, matrices: Any, nonlinearity: Any, dtype: Any = None) -> Tensor:
        for matrix in matrices:
            y = hidden_layers(x, [matrix], nonlinearity, dtype)
            seen.setdefault(id(matrix), []).append((x.detach(), y.detach()))
            x = y
        return x

    with mock.patch.object(forward, "hidden_layers", recorded):
        results(model, w, graphs)
    wanted = {id(matrix) for latent in w.latent_hidden for matrix in latent}
    return {k: tuple(torch.cat(t) for t in zip(*v, strict=True)) for k, v in seen.items() if k in wanted}  # type: ignore[misc]


def count(values: Tensor, tail: float) -> int:
    """Return how many of these descending values leave a tail of at most this norm."""
    squares = values.square().flip(0).cumsum(0).flip(0)
    return max(1, int((squares > tail**2 * squares[0]).sum()))


def of_rank(w: Folded, layers: dict[int, Any], tail: float) -> tuple[Folded, list[int], int]:
    """Return weights of which matrices are products of two factors, the ranks, and the multiply-adds saved."""
    latents, ranks, saved = [list(latent) for latent in w.latent_hidden], [], 0
    for latent in latents:
        for k, matrix in enumerate(latent):
            x = layers[id(matrix)][0]
            root = torch.linalg.qr(x).R + 1e-9 * float(x.norm()) * torch.eye(x.shape[1]).double()
            u, s, v = torch.linalg.svd(root @ matrix, full_matrices=False)
            rank = count(s, tail)
            less = matrix.numel() - rank * sum(matrix.shape)
            ranks.append(rank if less > 0 else min(matrix.shape))
            if less > 0:
                latent[k], saved = torch.linalg.solve(root, u[:, :rank] * s[:rank]) @ v[:rank], saved + less
    return w._replace(latent_hidden=tuple(map(tuple, latents))), ranks, saved


def of_width(w: Folded, layers: dict[int, Any], tail: float) -> tuple[Folded, list[int], int]:
    """Return weights of latents with fewer hidden features, the widths, and the multiply-adds saved."""
    latents, maps, densities = [list(m) for m in w.latent_hidden], list(w.scalar_maps), list(w.density_maps)
    head, widths = w.readout[0], []
    for k, latent in enumerate(latents):
        for j, matrix in enumerate(w.latent_hidden[k]):
            _, r, order = scipy.linalg.qr(layers[id(matrix)][1].numpy(), mode="economic", pivoting=True)
            norms = torch.tensor(np.linalg.norm(r, axis=1))
            n = count(norms, tail)
            widths.append(n)
            sums = np.zeros((len(order), n))
            sums[order[:n]] = np.eye(n)
            sums[order[n:]] = np.linalg.solve(r[:n, :n], r[:n, n:]).T
            back = torch.tensor(sums.T)
            latent[j] = latent[j][:, order[:n].tolist()]
            if j + 1 < len(latent):
                latent[j + 1] = back @ latent[j + 1]
            elif k + 1 < len(latents):
                maps[k + 1] = tuple(back @ m for m in maps[k + 1])
                densities[k + 1] = back @ densities[k + 1]
            else:
                head = torch.cat([head[: -len(order)], back @ head[-len(order) :]])
    new = w._replace(
        latent_hidden=tuple(map(tuple, latents)), scalar_maps=tuple(maps), density_maps=tuple(densities)
    )
    new = new._replace(readout=(head, *w.readout[1:]))
    return new, widths, multiply_adds(w) - multiply_adds(new)


def multiply_adds(w: Folded) -> int:
    """Return the elements of the matrices that every edge is multiplied with."""
    rows = (*w.latent_hidden, *w.scalar_maps, w.embed_hidden, (w.tensor_embed,))
    return sum(matrix.numel() for row in rows for matrix in row)


def main() -> None:
    """Print a row per method and tail."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("structures")
    parser.add_argument("--frames", type=int, default=40, help="frames to use, evenly chosen (default: 40)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    given, _ = localgraph.load_model(options.model)
    model = type(given)(dataclasses.replace(given.config, dtype="float64", mlp_dtype=None))
    model.load_state_dict(given.state_dict())
    frames = ase.io.read(options.structures, ":")
    frames = frames[:: max(1, len(frames) // options.frames)][: options.frames]
    graphs = [graph_of(model, atoms) for atoms in frames]
    with torch.no_grad():
        w = fold(model)
    fitted, held = graphs[::2], graphs[1::2]
    layers = layers_of(model, w, fitted)
    energies, forces = results(model, w, held)
    full = multiply_adds(w)
    print(f"{full:,} multiply-adds per edge; forces {float(forces.square().mean().sqrt()):.3g} eV/Å rms")
    methods: dict[str, Callable[..., Any]] = {"rank": of_rank, "width": of_width}
    for name, method in methods.items():
        for tail in TAILS:
            smaller, sizes, saved = method(w, layers, tail)
            e, f = results(model, smaller, held)
            rms, most = float((f - forces).square().mean().sqrt()), float((f - forces).abs().max())
            print(
                f"{name} {tail:7.0e}  {1 - saved / full:.2f} of the multiply-adds  forces {1e3 * rms:.3g} rms, "
                f"{1e3 * most:.3g} meV/Å at most, energy {1e3 * float((e - energies).abs().max()):.2g} meV per atom  "
                f"{sizes}"
            )


if __name__ == "__main__":
    main()
