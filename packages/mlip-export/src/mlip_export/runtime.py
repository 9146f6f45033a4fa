"""Load an exported model as a Python function of edges that checks its inputs, which compiled code does not."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from localgraph import types_of
from mlip_export import inductor
from mlip_export._precision import product_precision, setting
from mlip_export.captured import Captured
from mlip_export.chunks import Limits
from mlip_export.loaded import Function, shared_function
from mlip_export.model_file import ExportedModelError, Metadata, read_metadata


class GeometryError(ValueError):
    """A geometry outside the domain of the model: overlapping atoms, NaN, or a NaN result."""


class EdgePotential:
    """A compiled potential: atom energies and edge forces of a graph of edges.

    Instances come from :func:`load`. Calling one touches no seed, default dtype or thread count. Products of float32
    matrices have the precision of the metadata, whatever the process is set to, which is restored after the call.

    Attributes
    ----------
    metadata : Metadata
        Metadata of the file.
    type_names : tuple of str
        Name of each type, as a rule its element symbol.
    cutoff : float
        Largest cutoff, Å.
    cutoffs : Tensor, (T, T) float64
        Cutoff of each ordered type pair, Å, on the CPU.
    device : torch.device
        Where inputs must lie and outputs will.
    limits : Limits
        Edges and atoms that hosts evaluate in one call at most.
    """

    def __init__(self, function: Function, metadata: Metadata, device: torch.device):
        self._function = function
        self.metadata = metadata
        self.device = device
        self.limits = Limits(metadata, device)
        self.type_names = metadata.type_names
        self.cutoff = metadata.cutoff
        self.cutoffs = torch.tensor(metadata.cutoffs, dtype=torch.float64).reshape(
            len(metadata.type_names), -1
        )

    def __call__(self, edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        """Compute atom energies and edge forces.

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
            For other shapes, strides, unsorted centers, indices out of range, or more edges or atoms than
            ``metadata.max_edges`` and ``metadata.max_atoms``, which the hosts evaluate in several calls.
        GeometryError
            For vectors that are not finite or shorter than ``metadata.shortest_distance``, or a result
            that is not finite.
        """
        _check(edge_vectors, edge_index, types, self.metadata, self.device)
        if types.shape[0] == 0:
            return edge_vectors.new_zeros(0), edge_vectors.new_zeros(0, 3)
        kind = self.device.type
        with product_precision(kind, setting(kind, self.metadata.precision)):
            energies, edge_forces = self._function(edge_vectors, edge_index, types)
        if not math.isfinite(float(energies.sum() + edge_forces.sum())):  # NaN and infinity survive sums
            raise GeometryError(
                "energies and forces must be finite, got NaN or infinity; the geometry is far from the training data"
            )
        return energies, edge_forces

    def types_of(self, atoms: Sequence[str] | Tensor) -> Tensor:
        """Return the types (N,) int64 of symbols, type names or atomic numbers (:func:`localgraph.types_of`)."""
        return types_of(atoms, self.type_names, self.metadata.elements)


def load(
    path: str | os.PathLike[str], device: str | torch.device | None = None, *, cuda_graph: bool = False
) -> EdgePotential:
    """Load an exported model after checking that it fits this machine.

    Equal files share one loaded copy per device and process, so loading again costs no memory. After a process that
    loaded one forks, its children evaluate on one torch thread (OpenMP's threads do not survive a fork); start
    workers with ``spawn`` to give each of them several.

    Parameters
    ----------
    path : path
        An exported model, written by ``mlip-export compile``.
    device : str or torch.device, optional
        For a CUDA model, which GPU (``cuda:1``); by default the current one.
    cuda_graph : bool
        For a CUDA model, replay calls as one CUDA graph, which is captured at the first call, and again when atoms or
        edges exceed its capacity (:class:`mlip_export.captured.Captured`). Meant for small systems, whose time goes
        into kernel launches; the memory of a call stays allocated.

    Raises
    ------
    FileNotFoundError, ExportedModelError
        If the file is missing, truncated, foreign, or made for another device, instruction set, torch or
        format version; the message says which.
    ValueError
        For ``cuda_graph`` with a model for a CPU. A model that cannot be captured raises
        :class:`mlip_export.CaptureError` when it is called.
    """
    metadata = read_metadata(path)
    if cuda_graph and metadata.device != "cuda":
        raise ValueError(f"cuda_graph must be False for a model for {metadata.device}, got {cuda_graph!r}")
    place = torch.device(metadata.device if device is None else device)
    mismatches = check_machine(metadata, place)
    if mismatches:
        raise ExportedModelError(f"{path} must fit this machine, got " + "; ".join(mismatches))
    if place.type != metadata.device:
        raise ExportedModelError(
            f"device must be {metadata.device!r}, for which {path} was compiled, got {str(place)!r}"
        )
    function = shared_function(path, place, single_threaded=cuda_graph)
    return EdgePotential(Captured(function, metadata, place) if cuda_graph else function, metadata, place)


def gpu_architecture(device: str | torch.device | None = None) -> str:
    """Return what a GPU's code is compiled for: ``sm_90`` of NVIDIA's, ``gfx90a`` of AMD's, without its features."""
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def check_machine(metadata: Metadata, device: torch.device | None = None) -> list[str]:
    """Return what does not match this machine, or of its GPUs this one; one phrase each, empty when all matches."""
    found = []
    here = torch.__version__.split("+")[0]
    if metadata.torch_version.split(".")[:2] != here.split(".")[:2]:
        found.append(f"code of torch {metadata.torch_version} for torch {here}")
    if metadata.length_unit != "angstrom" or metadata.energy_unit != "eV":
        found.append(f"units {metadata.length_unit} and {metadata.energy_unit} instead of angstrom and eV")
    if metadata.device == "cuda":
        if not torch.cuda.is_available():
            found.append("code for cuda where torch sees no CUDA device")
        else:
            here = gpu_architecture(device if device is not None and device.type == "cuda" else None)
            if metadata.isa != here:
                found.append(f"code for {metadata.isa} on a GPU of {here}")
    else:
        isa = inductor.isa_of_this_machine()
        if inductor.ISA_ORDER.index(metadata.isa) > inductor.ISA_ORDER.index(isa):
            found.append(
                f"{metadata.isa} instructions on a processor that runs {isa} (compile it again here)"
            )
    return found


def _check(
    edge_vectors: Tensor, edge_index: Tensor, types: Tensor, metadata: Metadata, device: torch.device
) -> None:
    for name, tensor, dtype in (
        ("edge_vectors", edge_vectors, torch.float64),
        ("edge_index", edge_index, torch.int64),
        ("types", types, torch.int64),
    ):
        if tensor.dtype != dtype:
            raise TypeError(f"{name} must have dtype {dtype}, got {tensor.dtype}")
        if tensor.device.type != device.type or device.index not in (None, tensor.device.index):
            raise TypeError(f"{name} must be on {device}, got a tensor on {tensor.device}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, got strides {tensor.stride()}")
    edges, atoms = edge_vectors.shape[0], types.shape[0]
    if edge_vectors.shape != (edges, 3):
        raise ValueError(f"edge_vectors must have shape (E, 3), got {tuple(edge_vectors.shape)}")
    if edge_index.shape != (2, edges):
        raise ValueError(f"edge_index must have shape (2, {edges}), got {tuple(edge_index.shape)}")
    if types.ndim != 1:
        raise ValueError(f"types must have shape (N,), got {tuple(types.shape)}")
    if edges > metadata.max_edges or atoms > metadata.max_atoms:  # compiled code would wrap its indices
        raise ValueError(
            f"edge_vectors and types must be at most {metadata.max_edges} edges and {metadata.max_atoms} atoms in one "
            f"call, got {edges} and {atoms}"
        )
    _check_values(edge_vectors, edge_index, types, metadata)


def _check_values(edge_vectors: Tensor, edge_index: Tensor, types: Tensor, metadata: Metadata) -> None:
    """Check what tensors hold, in one read from their device."""
    edges, atoms, last = edge_vectors.shape[0], types.shape[0], len(metadata.type_names) - 1
    asked: list[Tensor] = []
    if atoms:
        asked += torch.aminmax(types)
    if edges:
        center = edge_index[0]
        asked += [*torch.aminmax(edge_index), (center[1:] < center[:-1]).any().long()]
    if not asked:
        return
    whole = torch.stack(asked).double()
    lengths = torch.aminmax(torch.linalg.vector_norm(edge_vectors, dim=1)) if edges else ()
    found = torch.stack([*whole.unbind(), *lengths]).tolist()
    if atoms:
        least, most = (int(value) for value in found[:2])
        if not 0 <= least <= most <= last:
            raise ValueError(f"types must be from 0 to {last}, got {least} to {most}")
    if not edges:
        return
    low, high, unsorted, shortest, longest = found[-5:]
    if unsorted:
        raise ValueError("edge_index must be sorted by center, got another order")
    if low < 0 or high >= atoms:
        raise ValueError(f"edge_index must be from 0 to {atoms - 1}, got {int(low)} to {int(high)}")
    if not shortest >= metadata.shortest_distance:  # also true for NaN
        raise GeometryError(
            f"edge_vectors must be finite and longer than {metadata.shortest_distance} Å, got {shortest:.3g} Å"
        )
    if not longest < math.inf:
        raise GeometryError("edge_vectors must be finite, got NaN or infinity")
