"""Cutoff neighbor lists sorted by center, forces and virials from edge forces, and the contract of edge models."""

from localgraph._batch import batch
from localgraph._forces import atomic_virial, edge_vectors, forces, stress, virial, volume
from localgraph._graph import Graph, from_pairs, row_offsets
from localgraph._inductor import inductor_workaround
from localgraph._neighbors import neighbors
from localgraph._segments import gather, segment_sum
from localgraph._skin import SkinList, allocate, grow, padded, update
from localgraph.model._files import atomic_write, read_safetensors
from localgraph.model.evaluation import Evaluation, evaluate
from localgraph.model.file import load_model, save_model
from localgraph.model.protocol import EdgeModel, energies_and_edge_forces
from localgraph.model.published import Published, RetryPolicy, fetch, is_published_name, published
from localgraph.model.registry import model_class, register
from localgraph.model.types import ELEMENTS, types_of
from localgraph.verlet import Edges, VerletList

__version__ = "0.1.0"

__all__ = [
    "ELEMENTS",
    "EdgeModel",
    "Edges",
    "Evaluation",
    "Graph",
    "Published",
    "RetryPolicy",
    "SkinList",
    "VerletList",
    "allocate",
    "atomic_virial",
    "atomic_write",
    "batch",
    "edge_vectors",
    "energies_and_edge_forces",
    "evaluate",
    "fetch",
    "forces",
    "from_pairs",
    "gather",
    "grow",
    "inductor_workaround",
    "is_published_name",
    "load_model",
    "model_class",
    "neighbors",
    "padded",
    "published",
    "read_safetensors",
    "register",
    "row_offsets",
    "save_model",
    "segment_sum",
    "stress",
    "types_of",
    "update",
    "virial",
    "volume",
]
