"""Cutoff neighbor lists sorted by center, and the way back from edge forces to forces and virials."""

from localgraph.adjoint import atomic_virial, edge_vectors, forces, stress, virial
from localgraph.batch import batch
from localgraph.graph import Graph, from_pairs, row_offsets
from localgraph.neighbors import neighbors
from localgraph.potential import EdgeModel, energies_and_edge_forces, load_model, model_class, save_model
from localgraph.segments import gather, segment_sum
from localgraph.skin import SkinList, allocate, grow, padded, update

__version__ = "0.1.0"

__all__ = [
    "EdgeModel",
    "Graph",
    "SkinList",
    "allocate",
    "atomic_virial",
    "batch",
    "edge_vectors",
    "energies_and_edge_forces",
    "forces",
    "from_pairs",
    "gather",
    "grow",
    "load_model",
    "model_class",
    "neighbors",
    "padded",
    "row_offsets",
    "save_model",
    "segment_sum",
    "stress",
    "update",
    "virial",
]
