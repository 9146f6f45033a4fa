"""Irreps paths, spherical harmonics, and tensor-product and edge-atom kernels for equivariant models."""

from equitensor import paths, reference, testing
from equitensor.contraction import TensorProduct, tensor_product
from equitensor.edges import row_offsets, to_atoms, to_basis, to_weights
from equitensor.harmonics import spherical_harmonics

__all__ = [
    "TensorProduct",
    "paths",
    "reference",
    "row_offsets",
    "spherical_harmonics",
    "tensor_product",
    "testing",
    "to_atoms",
    "to_basis",
    "to_weights",
]

__version__ = "0.1.0"
