"""The operations as Triton kernels, with the irreps written out in generated source.

They contain no matrix product (``tl.dot``), only ``tl.fma``: TF32 settings do not reach them. Against a reference in
float64 the tests bound float32 by 1e-4 (l_max ≤ 2) and bfloat16, summed in float32, by 2⁻⁸ of the largest entry.
"""
