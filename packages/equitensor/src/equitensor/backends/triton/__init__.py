"""The operators as Triton kernels, with the irreps written out in generated source.

They contain no matrix product (``tl.dot``), only ``tl.fma``: TF32 settings do not reach them. Against a reference in
float64 the tests bound float32 by 1e-4 (l_max ≤ 2) and bfloat16, summed in float32, by 2⁻⁸ of the largest entry. Apart
stands the fused edge layer, written by hand, whose products are in TF32.
"""

from equitensor.backends.triton.edge_atom import (
    scaled_to_atoms,
    scaled_to_basis,
    scaled_to_weights,
    to_atoms,
    to_basis,
    to_scalars,
    to_scalars_backward,
    to_weights,
)
from equitensor.backends.triton.second import to_scalars_second
from equitensor.backends.triton.tensor_product import contract, contract_weights

__all__ = [
    "contract",
    "contract_weights",
    "scaled_to_atoms",
    "scaled_to_basis",
    "scaled_to_weights",
    "to_atoms",
    "to_basis",
    "to_scalars",
    "to_scalars_backward",
    "to_scalars_second",
    "to_weights",
]
