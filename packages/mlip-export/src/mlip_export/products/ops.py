"""Operators of the products, and their lowering to the C++ kernel of ``product.h``."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import Tensor
from torch._inductor import ir, lowering  # before CppTemplate, which it imports
from torch._inductor.codegen.cpp_template import CppTemplate
from torch._inductor.utils import parallel_num_threads

from mlip_export.products.pack import unpack

_LEAD = 16
"""Elements before the output: no consumer has the kernel's own index, so that Inductor fuses none into it."""


@torch.library.custom_op("mlip_export::product", mutates_args=())
def product(x: Tensor, packed: Tensor, columns: int, lanes: int) -> Tensor:
    """Return x (M, K) times the packed matrix (K, N)."""
    return x @ unpack(packed, x.shape[1], columns, lanes)


@torch.library.custom_op("mlip_export::product_silu", mutates_args=())
def product_silu(x: Tensor, packed: Tensor, columns: int, lanes: int) -> Tensor:
    """Return silu of the product and its derivative, (2, M, N)."""
    y = x @ unpack(packed, x.shape[1], columns, lanes)
    s = y.sigmoid()
    return torch.stack([y * s, s + y * s * (1.0 - s)])


@torch.library.custom_op("mlip_export::product_times", mutates_args=())
def product_times(
    x: Tensor, packed: Tensor, factor: Tensor, addend: Tensor | None, columns: int, lanes: int
) -> Tensor:
    """Return (product + addend) · factor, (M, N)."""
    y = x @ unpack(packed, x.shape[1], columns, lanes)
    return (y if addend is None else y + addend) * factor


@product.register_fake
def _(x: Tensor, packed: Tensor, columns: int, lanes: int) -> Tensor:
    return x.new_empty(x.shape[0], columns)


@product_silu.register_fake
def _(x: Tensor, packed: Tensor, columns: int, lanes: int) -> Tensor:
    return x.new_empty(2, x.shape[0], columns)


@product_times.register_fake
def _(x: Tensor, packed: Tensor, factor: Tensor, addend: Tensor | None, columns: int, lanes: int) -> Tensor:
    return x.new_empty(x.shape[0], columns)


class _Kernel(CppTemplate):
    """One product: A, the packed matrix and, for ``TIMES``, factor and addend, to one flat buffer."""

    def __init__(self, nodes: list[Any], layout: Any, epilogue: str, columns: int, lanes: int):
        super().__init__(f"product_{epilogue.lower()}", nodes, layout, parallel_num_threads())
        self.epilogue, self.columns, self.lanes = epilogue, columns, lanes

    def render(  # type: ignore[override]
        self, kernel: Any, template_buffer_node: Any = None, epilogue_nodes: Any = None, **kwargs: Any
    ) -> str:
        """Return the source of the kernel."""
        if epilogue_nodes:
            raise RuntimeError(
                f"epilogue_nodes must be empty: kernels have no fused consumers, got {epilogue_nodes!r}"
            )
        out = self.output_node if template_buffer_node is None else template_buffer_node
        signature = kernel.def_kernel(
            inputs={f"in{i}": node for i, node in enumerate(self.input_nodes)}, outputs={"output": out}
        )
        a, b, *more = self.input_nodes

        def start(node: Any) -> str:
            return f"&({kernel.index(node, [0] * len(node.get_size()))})"

        rows = kernel.size(a, 0)
        lines = [
            f"using P = mlip_product::Of<{self.lanes}>;",
            "P::Operands o{};",
            f"const int64_t M = {rows};",
            f"o.a = {start(a)}; o.b = {start(b)}; o.K = {kernel.size(a, 1)}; o.a_row = {kernel.stride(a, 0)};",
            f"o.c = &({kernel.index(out, [0])}) + {_LEAD}; o.c_row = {self.columns};",
        ]
        if self.epilogue == "SILU":
            lines.append(f"o.slope = o.c + M * {self.columns};")
        for name, node in zip(("factor", "addend"), more, strict=False):
            lines.append(f"o.{name} = {start(node)}; o.{name}_row = {kernel.stride(node, 0)};")
        lines.append(f"P::product<{self.columns}, mlip_product::{self.epilogue}>(o, M);")
        body = "\n  ".join(lines)
        return f'{self.header().getvalue()}\n{source()}\nextern "C" {signature}\n{{\n  {body}\n}}\n'


@cache
def source() -> str:
    """Return the text of ``product.h``."""
    return files("mlip_export.products").joinpath("product.h").read_text()


def _lower(epilogue: str, operands: list[Any], columns: int, lanes: int) -> Any:
    """Emit a kernel; its output is one matrix, or for ``SILU`` two."""
    nodes = [
        ir.InputsKernel.unwrap_storage_for_input(
            ir.ExternKernel.require_stride1(ir.ExternKernel.realize_input(x))
        )
        for x in operands
    ]
    rows = nodes[0].get_size()[0]
    size = [sympy.Integer(2)] * (epilogue == "SILU") + [rows, sympy.Integer(columns)]
    count = sympy.expand(sympy.prod(size))
    layout = ir.FixedLayout(torch.device("cpu"), torch.float32, [count + _LEAD], [sympy.Integer(1)])
    kernel: Any = _Kernel(nodes, layout, epilogue, columns, lanes)
    flat = kernel.generate().output_node()
    view = ir.FixedLayout(
        torch.device("cpu"),
        torch.float32,
        size,
        ir.FlexibleLayout.contiguous_strides(size),
        offset=sympy.Integer(_LEAD),
    )
    return ir.TensorBox(ir.ReinterpretView(data=flat.data, layout=view))


@lowering.register_lowering(torch.ops.mlip_export.product.default, type_promotion_kind=None)
def _product(x: Any, packed: Any, columns: int, lanes: int) -> Any:
    return _lower("PLAIN", [x, packed], columns, lanes)


@lowering.register_lowering(torch.ops.mlip_export.product_silu.default, type_promotion_kind=None)
def _product_silu(x: Any, packed: Any, columns: int, lanes: int) -> Any:
    return _lower("SILU", [x, packed], columns, lanes)


@lowering.register_lowering(torch.ops.mlip_export.product_times.default, type_promotion_kind=None)
def _product_times(x: Any, packed: Any, factor: Any, addend: Any, columns: int, lanes: int) -> Any:
    operands = [x, packed, factor] + ([] if addend is None else [addend])
    return _lower("TIMES", operands, columns, lanes)
