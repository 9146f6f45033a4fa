"""The published per-edge form of the model, as the reference implementation for tests.

It reads the parameters of an :class:`~allegro_model.Allegro` without folding, gathers the density to the edges and
keeps a tensor feature on every edge.
"""

from __future__ import annotations

import torch
from torch import Tensor

from allegro_model.model import Allegro
from allegro_model.pair import LennardJones, lennard_jones_edge_energy, zbl_edge_energy
from allegro_model.radial import bessel_basis, polynomial_cutoff, spline_basis
from equitensor import spherical_harmonics
from equitensor.backends.reference import expand_blocks
from equitensor.irreps import irreps_slices, spherical_irreps
from equitensor.paths import admissible_paths
from equitensor.wigner import coupling


def atom_energies(model: Allegro, edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> Tensor:
    """Compute atom energies (N,) float64 eV, with the arguments of :meth:`allegro_model.Allegro.forward`."""
    c, (center, neighbor) = model.config, edge_index
    dtype = model.dtype
    dims = [2 * ell + 1 for ell in range(c.l_max + 1)]

    length = edge_vectors.norm(dim=1)
    x = length / model.cutoff_table[types[center], types[neighbor]]
    envelope = polynomial_cutoff(x, c.polynomial_cutoff_p)
    y = spherical_harmonics(c.l_max, edge_vectors).to(dtype)

    h = model.scalar_embed(_two_body(model, x, envelope, types[center], types[neighbor]))
    rows = (c.l_max + 1, c.num_tensor_features)
    tensor = expand_blocks(model.tensor_embed(h).unflatten(1, rows), dims) * y[:, :, None]
    projection = model.first_projection(h)
    scalars, omega = [projection[:, : c.num_scalar_features]], projection[:, c.num_scalar_features :]

    norm = model.density_norm.to(dtype)[types]
    for k, (layer, weights) in enumerate(zip(model.fixed.layers, model.products, strict=True)):
        density_rows = rows if c.weight_individual_irreps else (1, c.num_tensor_features)
        weights_of_l = omega.unflatten(1, density_rows).expand(-1, *rows)
        weighted = expand_blocks(weights_of_l, dims) * y[:, :, None]
        density = torch.zeros(len(types), *weighted.shape[1:], dtype=dtype).index_add(0, center, weighted)
        density = (density * norm[:, None, None])[center]
        tensor = _product(layer.irreps_in, layer.irreps_out, c.l_max, weights, tensor, density)
        latent = model.latents[k](torch.cat([*scalars, tensor[:, 0]], 1))
        scalars.append(latent[:, : c.num_scalar_features])
        omega = latent[:, c.num_scalar_features :]

    edge_energy = model.readout(torch.cat(scalars, 1)).squeeze(1)
    energy = torch.zeros(len(types), dtype=dtype).index_add(0, center, edge_energy) * norm / 2**0.5
    energy = energy.double() * model.energy_scales[types] + model.energy_shifts[types]
    envelope = polynomial_cutoff(x, c.polynomial_cutoff_p if c.pair_cutoff_p is None else c.pair_cutoff_p)
    if c.zbl:
        z = model.atomic_numbers
        repulsion = zbl_edge_energy(length, z[types[center]], z[types[neighbor]]) * envelope
        energy = energy.index_add(0, center, repulsion)
    if isinstance(c.lennard_jones, LennardJones):
        low, high = (
            torch.minimum(types[center], types[neighbor]),
            torch.maximum(types[center], types[neighbor]),
        )
        tables = (model.lj_sigma, model.lj_epsilon, model.lj_delta)
        sigma, epsilon, delta = (table[low, high].clamp(min=0.0) for table in tables)
        n, style = c.lennard_jones.exponent, c.lennard_jones.style
        pairs = lennard_jones_edge_energy(length, sigma, epsilon, delta, n, style) * envelope
        energy = energy.index_add(0, center, pairs)
    return energy


def _two_body(model: Allegro, x: Tensor, envelope: Tensor, center: Tensor, neighbor: Tensor) -> Tensor:
    """Return the two-body embedding (E, E_d) of edges between atoms of types ``center`` and ``neighbor``."""
    c = model.config
    if c.radial_embedding == "spline":
        basis = spline_basis(x, c.num_splines, c.spline_span).to(model.dtype)
        return torch.einsum("ek,ekd->ed", basis, model.spline_coefficients[center, neighbor].to(model.dtype))
    radial = (bessel_basis(x, model.bessel_frequencies) * envelope[:, None]).to(model.dtype)
    pair = torch.cat([model.center_embedding[center], model.neighbor_embedding[neighbor]], 1)
    projected: Tensor = model.basis_linear(radial)
    return pair * projected


def _product(ins, outs, l_max, weights, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """Compute out[e, o, u] = Σ_p W[p, u] Σ_ab C^p_abo x[e, a, u] y[e, b, u], path by path."""
    harmonics = spherical_irreps(l_max)
    s1, s2, s3 = irreps_slices(ins), irreps_slices(harmonics), irreps_slices(outs)
    blocks = [x.new_zeros(x.shape[0], s.stop - s.start, x.shape[2]) for s in s3]
    for row, (i, j, o) in enumerate(admissible_paths(ins, harmonics, outs)):
        c = torch.tensor(coupling(ins[i][0], harmonics[j][0], outs[o][0]), dtype=x.dtype)
        blocks[o] = blocks[o] + weights[row] * torch.einsum("abo,eau,ebu->eou", c, x[:, s1[i]], y[:, s2[j]])
    return torch.cat(blocks, 1)
