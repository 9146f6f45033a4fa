"""Second derivatives of the energy by automatic differentiation of a model's edge forces."""

from __future__ import annotations

import os

import numpy as np
import torch
from ase import Atoms

from localgraph import (
    EdgeModel,
    edge_vectors,
    energies_and_edge_forces,
    forces,
    load_model,
    neighbors,
    types_of,
)


def hessian(model: EdgeModel | str | os.PathLike[str], atoms: Atoms, rows: int = 16) -> np.ndarray:
    """Compute the Hessian ∂²E/∂x∂x of atoms.

    An exported model holds no second derivatives, so this takes the model itself and evaluates it in eager mode.

    Parameters
    ----------
    model : EdgeModel or path
        A model, or a model file written by ``localgraph.save_model``.
    atoms : ase.Atoms
        The structure, periodic or not.
    rows : int
        Rows computed before temporary memory is released, at least 1.

    Returns
    -------
    ndarray, (3N, 3N) float64
        eV/Å², in the order x, y, z of atom 0, of atom 1, ...; symmetric.

    Raises
    ------
    ValueError
        For elements that the model does not know, or ``rows`` below 1.

    Notes
    -----
    Costs one backward pass per row, on the CPU. Numbers are as exact as the model's precision: use a float64 model for
    vibrations of soft modes.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows!r}")
    used = load_model(model)[0] if isinstance(model, (str, os.PathLike)) else model
    types = types_of(atoms.get_chemical_symbols(), used.type_names)
    x = torch.from_numpy(np.array(atoms.positions, dtype=np.float64)).requires_grad_(True)
    cell = torch.from_numpy(np.array(atoms.cell.array, dtype=np.float64)) if atoms.pbc.any() else None
    pbc = [bool(p) for p in atoms.pbc]
    graph = neighbors(x.detach(), used.cutoffs, cell=cell, pbc=pbc, types=types)
    size = x.numel()
    found = torch.zeros(size, size, dtype=torch.float64)
    for start in range(0, size, rows):
        r = edge_vectors(x, graph, cell)
        _, g = energies_and_edge_forces(used, r, graph.edge_index, types, create_graph=True)
        gradient = -forces(g, graph.edge_index, len(atoms)).flatten()
        for row in range(start, min(start + rows, size)):
            (found[row],) = (
                d.flatten()
                for d in torch.autograd.grad(gradient[row], x, retain_graph=True, materialize_grads=True)
            )
    symmetric: np.ndarray = (0.5 * (found + found.T)).numpy()
    return symmetric
