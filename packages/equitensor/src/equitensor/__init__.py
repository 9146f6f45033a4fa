"""Irreps paths, spherical harmonics, and tensor-product and edge-atom kernels for equivariant models."""

from equitensor import edge_atom, irreps, paths, testing
from equitensor._edge_layer import edge_layer
from equitensor._spherical_harmonics import spherical_harmonics
from equitensor._tensor_product import TensorProduct, tensor_product
from equitensor.backends import reference
from equitensor.edge_atom import row_offsets, to_atoms, to_basis, to_scalars, to_weights
from equitensor.reader import ScalarReader

__all__ = [
    "ScalarReader",
    "TensorProduct",
    "edge_atom",
    "edge_layer",
    "irreps",
    "paths",
    "reference",
    "row_offsets",
    "spherical_harmonics",
    "tensor_product",
    "testing",
    "to_atoms",
    "to_basis",
    "to_scalars",
    "to_weights",
]

__version__ = "0.1.0"
