"""The operations as Triton kernels, with the irreps written out in generated source."""
