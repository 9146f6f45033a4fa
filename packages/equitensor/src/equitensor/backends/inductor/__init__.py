"""The operators as C++ that Inductor compiles into its own CPU kernels, for torch.compile and AOT Inductor.

Importing this registers the lowerings.
"""

from equitensor.backends.inductor import edge_atom, tensor_product

__all__ = ["edge_atom", "tensor_product"]
