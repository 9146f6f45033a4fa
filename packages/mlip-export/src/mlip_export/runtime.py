"""load(path): a package as a Python function of edges, guarded against all AOT Inductor does not check."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from localgraph import types_of
from mlip_export import inductor
from mlip_export.loaded import Function, shared_function
from mlip_export.metadata import Metadata, PackageError, read_metadata

MIN_DISTANCE = 0.1
"""Å; atoms nearer than this are taken for an error in the geometry by every host."""


class GeometryError(ValueError):
    """A geometry that no potential can answer: overlapping atoms, NaN, or a NaN result."""


class EdgePotential:
    """A compiled potential: atom energies and edge forces of a graph of edges.

    Instances come from :func:`load`. Calling one touches no seed, default dtype or thread count.

    Attributes
    ----------
    metadata : Metadata
        What the package says about itself.
    type_names : tuple of str
        Element symbol of each type.
    cutoff : float
        Largest cutoff, Å.
    cutoffs : Tensor, (T, T) float64
        Cutoff of each ordered type pair, Å, on the CPU.
    device : torch.device
        Where inputs must lie and outputs will.
    """

    def __init__(self, function: Function, metadata: Metadata, device: torch.device):
        self._function = function
        self.metadata = metadata
        self.device = device
        self.type_names = metadata.type_names
        self.cutoff = metadata.cutoff
        self.cutoffs = torch.tensor(metadata.cutoffs, dtype=torch.float64).reshape(
            len(metadata.type_names), -1
        )

    def __call__(self, edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        """Atom energies and edge forces.

        Parameters
        ----------
        edge_vectors : Tensor, (E, 3) float64
            r_e = x_neighbor + shift·cell − x_center, Å.
        edge_index : Tensor, (2, E) int64
            ``[center; neighbor]``, sorted by center.
        types : Tensor, (N,) int64
            Index into ``type_names`` of each atom.

        Returns
        -------
        energies : Tensor, (N,) float64
            eV.
        edge_forces : Tensor, (E, 3) float64
            g_e = ∂(Σ E_i)/∂r_e, eV/Å.

        Raises
        ------
        TypeError
            For a tensor of another dtype or on another device.
        ValueError
            For other shapes, strides, unsorted centers, or indices out of range.
        GeometryError
            For vectors that are not finite or shorter than 0.1 Å, or a result that is not finite.
        """
        _check(edge_vectors, edge_index, types, len(self.type_names), self.device)
        if types.shape[0] == 0:
            return edge_vectors.new_zeros(0), edge_vectors.new_zeros(0, 3)
        energies, edge_forces = self._function(edge_vectors, edge_index, types)
        if not bool(torch.isfinite(energies).all() & torch.isfinite(edge_forces).all()):
            raise GeometryError(
                "result: required finite energies and forces, got NaN or infinity; the geometry is far "
                "outside what the model was trained on"
            )
        return energies, edge_forces

    def types_of(self, symbols: Sequence[str]) -> Tensor:
        """Return the types (N,) int64 of element symbols (:func:`localgraph.types_of`)."""
        return types_of(symbols, self.type_names)


def load(path: str | os.PathLike[str], device: str | torch.device | None = None) -> EdgePotential:
    """Load an exported model after checking that it fits this machine.

    Equal files share one loaded copy per device and process, so loading again costs no memory. After a process that
    loaded one forks, its children evaluate on one torch thread (OpenMP's threads do not survive a fork); start
    workers with ``spawn`` to give each of them several.

    Parameters
    ----------
    path : path
        A package written by ``mlip-export compile``.
    device : str or torch.device, optional
        For a CUDA package, which GPU (``cuda:1``); by default the current one.

    Raises
    ------
    FileNotFoundError, PackageError
        If the file is missing, truncated, foreign, or made for another device, instruction set, torch or
        format version; the message says which.
    """
    metadata = read_metadata(path)
    mismatches = check_machine(metadata)
    if mismatches:
        raise PackageError(f"{path}: this package does not fit this machine: " + "; ".join(mismatches))
    place = torch.device(metadata.device if device is None else device)
    if place.type != metadata.device:
        raise PackageError(
            f"{path}: required device {metadata.device!r}, for which it was compiled, got {str(place)!r}"
        )
    return EdgePotential(shared_function(path, place), metadata, place)


def check_machine(metadata: Metadata) -> list[str]:
    """What of a package does not match this machine, one sentence each; empty when it fits."""
    found = []
    here = torch.__version__.split("+")[0]
    if metadata.torch_version.split(".")[:2] != here.split(".")[:2]:
        found.append(f"compiled by torch {metadata.torch_version}, this is torch {here}")
    if metadata.length_unit != "angstrom" or metadata.energy_unit != "eV":
        found.append(f"units {metadata.length_unit} and {metadata.energy_unit}, required angstrom and eV")
    if metadata.device == "cuda":
        if not torch.cuda.is_available():
            found.append("compiled for cuda, torch sees no CUDA device here")
        else:
            major, minor = torch.cuda.get_device_capability()
            if metadata.isa != f"sm_{major}{minor}":
                found.append(f"compiled for {metadata.isa}, this GPU is sm_{major}{minor}")
    else:
        isa = inductor.isa_of_this_machine()
        if inductor.ISA_ORDER.index(metadata.isa) > inductor.ISA_ORDER.index(isa):
            found.append(
                f"compiled for {metadata.isa} instructions, this processor runs {isa} (compile again here)"
            )
    return found


def _check(
    edge_vectors: Tensor, edge_index: Tensor, types: Tensor, types_count: int, device: torch.device
) -> None:
    for name, tensor, dtype in (
        ("edge_vectors", edge_vectors, torch.float64),
        ("edge_index", edge_index, torch.int64),
        ("types", types, torch.int64),
    ):
        if tensor.dtype != dtype:
            raise TypeError(f"{name}: required dtype {dtype}, got {tensor.dtype}")
        if tensor.device.type != device.type or device.index not in (None, tensor.device.index):
            raise TypeError(f"{name}: required a tensor on {device}, got one on {tensor.device}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: required a contiguous tensor, got strides {tensor.stride()}")
    edges, atoms = edge_vectors.shape[0], types.shape[0]
    if edge_vectors.shape != (edges, 3):
        raise ValueError(f"edge_vectors: required shape (E, 3), got {tuple(edge_vectors.shape)}")
    if edge_index.shape != (2, edges):
        raise ValueError(f"edge_index: required shape (2, {edges}), got {tuple(edge_index.shape)}")
    if types.ndim != 1:
        raise ValueError(f"types: required shape (N,), got {tuple(types.shape)}")
    if atoms and not bool(((types >= 0) & (types < types_count)).all()):
        raise ValueError(f"types: required values from 0 to {types_count - 1}, got others")
    if edges == 0:
        return
    center = edge_index[0]
    if not bool((center[1:] >= center[:-1]).all()):
        raise ValueError("edge_index: required edges sorted by center, got them in another order")
    low, high = int(edge_index.min()), int(edge_index.max())
    if low < 0 or high >= atoms:
        raise ValueError(f"edge_index: required indices from 0 to {atoms - 1}, got {low} to {high}")
    shortest = float(edge_vectors.square().sum(1).min().sqrt())
    if not shortest >= MIN_DISTANCE:  # also true for NaN
        raise GeometryError(
            f"edge_vectors: required finite vectors longer than {MIN_DISTANCE} Å, got one of {shortest:.3g} Å"
        )
    if not bool(torch.isfinite(edge_vectors).all()):
        raise GeometryError("edge_vectors: required finite vectors, got NaN or infinity")
