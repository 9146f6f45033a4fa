"""A compiled function replayed as a CUDA graph, at a fixed capacity of atoms and edges.

For a small system the launches of kernels, one after another, take most of the time; a graph launches all at once. It
repeats the same kernels on the same memory, so inputs are copied to fixed buffers, and what they do not fill is
padding: atoms whose results are dropped, with edges beyond the cutoff.
"""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

import torch
from torch import Tensor

from mlip_export._verify import TOLERANCES
from mlip_export.loaded import Function
from mlip_export.model_file import Metadata
from mlip_export.recording import CaptureError, CudaGraph, Recording

GROWTH = 1.03
"""Ratio of the capacity to the sizes at the time of recording."""
EDGE_STEP, ATOM_STEP = 256, 16
"""Capacities are multiples of these."""
FAR = 2.0
"""Length of padding edges, in cutoffs."""
FEW = 16
"""Fewest edges of a padding atom; otherwise as many as atoms have on average."""
PATIENCE = 100
"""Calls in a row for which half of the capacity would do before it is lowered."""

# one capture at a time in a process, and no other call of its function meanwhile
_capturing = threading.RLock()


class Capacity(NamedTuple):
    """Sizes of the inputs of a recording.

    Attributes
    ----------
    edges : int
        Slots of edges.
    atoms : int
        Rows of atoms.
    padding : int
        Rows of padding atoms behind them, which padding edges join to themselves.
    per_row : int
        Edges of a padding atom; where there are more, the first has the rest. One with many takes longer than others.
    """

    edges: int
    atoms: int
    padding: int
    per_row: int

    @property
    def rows(self) -> int:
        """Rows of all atoms."""
        return self.atoms + self.padding


def capacity_for(edges: int, atoms: int) -> Capacity:
    """Return the capacity to record for so many edges and atoms, with padding atoms for twice the free slots."""
    slots = _steps(GROWTH * edges + 1, EDGE_STEP)
    per_row = max(FEW, math.ceil(edges / max(1, atoms)))
    padding = math.ceil(2 * (slots - edges) / per_row)
    return Capacity(slots, _steps(GROWTH * atoms, ATOM_STEP), padding, per_row)


def _steps(size: float, step: int) -> int:
    return step * max(1, math.ceil(size / step))


class PaddedInputs:
    """Fixed buffers of the inputs of a CUDA graph.

    Attributes
    ----------
    tensors : (Tensor, Tensor, Tensor)
        Edge vectors, edge index and types.
    """

    def __init__(self, capacity: Capacity, cutoff: float, device: torch.device):
        slots = torch.arange(capacity.edges, device=device)
        behind = torch.div(capacity.edges - 1 - slots, capacity.per_row, rounding_mode="floor")
        self._atom_of_slot = capacity.rows - 1 - behind.clamp(max=capacity.padding - 1)
        self._far = torch.tensor([FAR * cutoff, 0.0, 0.0], dtype=torch.float64, device=device)
        self.tensors = (
            self._far.repeat(capacity.edges, 1),
            self._atom_of_slot.repeat(2, 1),
            torch.zeros(capacity.rows, dtype=torch.int64, device=device),
        )
        self._edges = self._atoms = 0

    def fill(self, edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> None:
        """Copy edges and atoms in; where the previous call had more, restore the padding."""
        edges, atoms = edge_vectors.shape[0], types.shape[0]
        vectors, index, kinds = self.tensors
        vectors[:edges].copy_(edge_vectors)
        index[:, :edges].copy_(edge_index)
        kinds[:atoms].copy_(types)
        if edges < self._edges:
            vectors[edges : self._edges] = self._far
            index[:, edges : self._edges] = self._atom_of_slot[edges : self._edges]
        if atoms < self._atoms:
            kinds[atoms : self._atoms].zero_()
        self._edges, self._atoms = edges, atoms


class Captured:
    """A compiled function that is recorded once and replayed, with the arguments and results of the function.

    It is recorded again when edges or atoms exceed the capacity, or after many calls for which half of it would do.
    Each recording is compared with a plain call of the function. Results are copies. Where a recording, with its
    padding, would exceed the limits of the code, the function is called instead.

    Parameters
    ----------
    function : callable
        A compiled function, loaded to run in a single thread.
    metadata : Metadata
        Metadata of its file.
    device : torch.device
        Where it runs.
    record : type of Recording
        What repeats the calls.

    Attributes
    ----------
    capacity : Capacity or None
        Of the present recording.
    recordings : int
        Number of recordings made.
    """

    def __init__(
        self,
        function: Function,
        metadata: Metadata,
        device: torch.device,
        record: type[Recording] = CudaGraph,
    ):
        self._function, self._metadata, self._device, self._record = function, metadata, device, record
        self._lock = threading.Lock()
        self._recording: Recording | None = None
        self._few = 0
        self.capacity: Capacity | None = None
        self.recordings = 0

    def __call__(self, edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        """Compute atom energies and edge forces of a checked graph.

        Raises
        ------
        CaptureError
            If the function cannot be captured, or padding changes its results.
        """
        graph = edge_vectors, edge_index, types
        edges, atoms = edge_vectors.shape[0], types.shape[0]
        wanted = capacity_for(edges, atoms)
        with self._lock, torch.inference_mode(False), torch.no_grad():  # inputs outlive the caller's modes
            if wanted.edges > self._metadata.max_edges or wanted.rows > self._metadata.max_atoms:
                with _capturing:
                    return self._function(*graph)
            recording = self._recording
            if recording is None or self._unfit(edges, atoms, wanted):
                recording = self._renew(wanted, *graph)
            else:
                recording.begin()
                self._inputs.fill(*graph)
                recording.replay()
            energies, edge_forces = recording.outputs
            results = energies[:atoms].clone(), edge_forces[:edges].clone()
            recording.end()
        return results

    def _unfit(self, edges: int, atoms: int, wanted: Capacity) -> bool:
        """Whether a graph exceeds the capacity, or is the last of many that half of it would hold."""
        if self.capacity is None or edges > self.capacity.edges or atoms > self.capacity.atoms:
            return True
        few = 2 * (wanted.edges + wanted.rows) <= self.capacity.edges + self.capacity.rows
        self._few = self._few + 1 if few else 0
        return self._few >= PATIENCE

    def _renew(self, capacity: Capacity, *graph: Tensor) -> Recording:
        """Record again, after the memory of the last recording is free, and replay it once."""
        self._recording = self.capacity = None
        self._inputs = PaddedInputs(capacity, self._metadata.cutoff, self._device)
        self._inputs.fill(*graph)
        with _capturing:
            recording = self._record(self._function, self._inputs.tensors, self._device)
            recording.replay()
            self._compare(recording, *graph)
        self._recording, self.capacity, self._few = recording, capacity, 0
        self.recordings += 1
        return recording

    def _compare(self, recording: Recording, edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> None:
        """Raise unless a recording gives what the function gives without padding, within rounding."""
        edges, m = edge_vectors.shape[0], self._metadata
        expected = self._function(edge_vectors, edge_index, types)
        energies, edge_forces = recording.outputs
        tolerance = TOLERANCES[m.dtype if m.precision == "float32" else "tf32"]
        scale = float(expected[1].abs().max()) if edges else 0.0
        for what, found, right, most in (
            ("energies", energies[: types.shape[0]], expected[0], tolerance.energy),
            ("edge forces", edge_forces[:edges], expected[1], tolerance.force),
        ):
            apart = (found - right).abs()
            # never for NaN, which callers refuse
            wrong = apart > most + tolerance.relative * (scale + right.abs())
            if bool(wrong.any()):
                raise CaptureError(
                    f"cuda_graph must be False for this model, got {what} that differ by "
                    f"{float(apart[wrong].max()):.3g} in a padded recording"
                )
        if not bool((edge_forces[edges:] == 0).all()):
            raise CaptureError(
                "cuda_graph must be False for this model, got forces on edges beyond its cutoff, where padding lies"
            )
