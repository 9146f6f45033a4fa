"""The operator of products in a row, and its lowering to the C++ kernel of ``product.h``."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import sympy  # type: ignore[import-untyped]
import torch
from torch import Tensor
from torch._inductor import ir, lowering  # before CppTemplate, which it imports
from torch._inductor.codegen.cpp_template import CppTemplate
from torch._inductor.utils import parallel_num_threads

from mlip_export.products.pack import LANES, unpack

_LEAD = 16
"""Elements before the output: no consumer has the kernel's own index, so that Inductor fuses none into it."""


class Step(NamedTuple):
    """What happens to one product, as words of the operator's argument ``steps`` say."""

    epilogue: str
    """``plain``; ``silu``, which gives silu of the product and its derivative; ``times`` a factor; or ``sum_times``,
    (product + addend) · factor."""
    kept: bool
    """Whether the result is returned, besides being the next product's left operand."""

    @property
    def operands(self) -> int:
        """Number of matrices that the epilogue reads."""
        return {"times": 1, "sum_times": 2}.get(self.epilogue, 0)


def parse(steps: str) -> list[Step]:
    """Return the steps of the operator's argument: one word each, with ``+`` behind it where the result is kept."""
    return [Step(word.rstrip("+"), word.endswith("+")) for word in steps.split()]


@torch.library.custom_op("mlip_export::products", mutates_args=())
def products(
    x: Tensor, packed: list[Tensor], operands: list[Tensor], columns: list[int], steps: str, lanes: int
) -> list[Tensor]:
    """Return what products in a row give: x (M, K) times a packed matrix (K, N), and the result times the next.

    Parameters
    ----------
    x : Tensor
        (M, K), float32.
    packed : list of Tensor
        One matrix for each product, by :func:`mlip_export.products.pack.pack`.
    operands : list of Tensor
        (M, N) for each that an epilogue reads, in order: factor, or factor and addend.
    columns : list of int
        N of each product.
    steps : str
        See :class:`Step`.
    lanes : int
        Which kernel: one of ``pack.LANES``.

    Returns
    -------
    list of Tensor
        (M, N); for each product in order its result, if it is kept, and its derivative, for ``silu``.
    """
    left, found = list(operands), list[Tensor]()
    for matrix, n, step in zip(packed, columns, parse(steps), strict=True):
        x, slopes = x @ unpack(matrix, x.shape[1], n, lanes), list[Tensor]()
        if step.epilogue == "silu":
            s = x.sigmoid()
            x, slopes = x * s, [s + x * s * (1.0 - s)]
        elif step.operands:
            factor, *addend = (left.pop(0) for _ in range(step.operands))
            x = (x + addend[0] if addend else x) * factor
        found += [x] * step.kept + slopes
    return found


@products.register_fake
def _(
    x: Tensor, packed: list[Tensor], operands: list[Tensor], columns: list[int], steps: str, lanes: int
) -> list[Tensor]:
    return [x.new_empty(x.shape[0], n) for n, _, _ in outputs(columns, steps)]


def outputs(columns: list[int], steps: str) -> list[tuple[int, int, str]]:
    """Return, for each matrix that the operator returns, its columns, its product, and ``c`` or ``slope``."""
    found = []
    for k, (n, step) in enumerate(zip(columns, parse(steps), strict=True)):
        found += [(n, k, "c")] * step.kept + [(n, k, "slope")] * (step.epilogue == "silu")
    return found


class _Kernel(CppTemplate):
    """Products in a row: A, the packed matrices and the epilogues' operands, to one flat buffer."""

    def __init__(self, nodes: list[Any], layout: Any, columns: list[int], steps: str, lanes: int):
        super().__init__("products", nodes, layout, parallel_num_threads())
        self.columns, self.steps, self.lanes = columns, steps, lanes

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
        x, nodes, steps = self.input_nodes[0], iter(self.input_nodes[1:]), parse(self.steps)

        def start(node: Any) -> str:
            return f"&({kernel.index(node, [0] * len(node.get_size()))})"

        setup = [
            f"const int64_t M = {kernel.size(x, 0)};",
            f"float* const result = &({kernel.index(out, [0])}) + {_LEAD};",
            f"o[0].a = {start(x)}; o[0].K = {kernel.size(x, 1)}; o[0].a_row = {kernel.stride(x, 0)};",
        ]
        work = [f"mlip_product::Operands o{k} = o[{k}].from(m);" for k in range(len(steps))]
        work.append("P::first(o0, end - m, scratch);")
        for k, n in enumerate(self.columns):
            setup.append(f"o[{k}].b = {start(next(nodes))}; o[{k}].c_row = {n};")
        first = 0
        for n, k, name in outputs(self.columns, self.steps):
            setup.append(f"o[{k}].{name} = result + M * {first};")
            first += n
        for k, (n, step) in enumerate(zip(self.columns, steps, strict=True)):
            for name in ("factor", "addend")[: step.operands]:
                node = next(nodes)
                setup.append(f"o[{k}].{name} = {start(node)}; o[{k}].{name}_row = {kernel.stride(node, 0)};")
            if k + 1 < len(steps):
                work.append(f"P::hand_over(o{k}, o{k + 1}, {n}, scratch + {(k + 1) % 2} * buffer);")
            epilogue = step.epilogue.removeprefix("sum_").upper()
            work.append(f"P::product<{n}, mlip_product::{epilogue}>(o{k}, end - m);")
        inner = ["o[0].K", *map(str, self.columns[:-1])]
        setup.append(f"const int64_t buffer = P::buffer(std::max<int64_t>({{{', '.join(inner)}}}));")
        operations = " + ".join(f"{k} * {n}" for k, n in zip(inner, self.columns, strict=True))
        buffers = 2 if len(steps) > 1 else "P::ALONE"
        return "\n".join(
            [
                self.header().getvalue(),
                source(),
                f'extern "C" {signature}',
                "{",
                f"  using P = {kernels(self.lanes)};",
                f"  mlip_product::Operands o[{len(steps)}]{{}};",
                *(f"  {line}" for line in setup),
                f"  P::blocks(M, {operations}, {buffers} * buffer, [&](int64_t m, int64_t end, float* scratch) {{",
                *(f"    {line}" for line in work),
                "  });",
                "}",
                "",
            ]
        )


@cache
def source() -> str:
    """Return the text of ``product.h`` and ``tiles.h``."""
    return "\n".join(
        files("mlip_export.products").joinpath(name).read_text() for name in ("product.h", "tiles.h")
    )


def kernels(lanes: int) -> str:
    """Return the C++ name of the kernels for registers of ``lanes`` elements."""
    return "mlip_product::Tiles" if lanes == LANES["amx"] else f"mlip_product::Of<{lanes}>"


def _rows(x: Any) -> Any:
    """Return ``x`` in memory, with the elements of a row side by side, and nothing left to change that."""
    found = ir.ExternKernel.realize_input(x)
    if found.get_stride()[-1] != 1:
        return ir.ExternKernel.require_contiguous(found)
    ir.as_storage_and_layout(found, freeze=True)
    return found


@lowering.register_lowering(torch.ops.mlip_export.products.default, type_promotion_kind=None)
def _products(
    x: Any, packed: list[Any], operands: list[Any], columns: list[int], steps: str, lanes: int
) -> list[Any]:
    """Emit a kernel, whose results lie one after the other in one buffer."""
    nodes = [ir.InputsKernel.unwrap_storage_for_input(_rows(node)) for node in (x, *packed, *operands)]
    rows, columns = nodes[0].get_size()[0], [int(n) for n in columns]
    widths = [n for n, *_ in outputs(columns, steps)]

    def layout(size: list[Any], offset: Any) -> Any:
        strides = ir.FlexibleLayout.contiguous_strides(size)
        return ir.FixedLayout(torch.device("cpu"), torch.float32, size, strides, offset=offset)

    flat = layout([sympy.expand(rows * sum(widths)) + _LEAD], sympy.Integer(0))
    kernel: Any = _Kernel(nodes, flat, columns, steps, lanes)
    data, found, offset = kernel.generate().output_node().data, [], sympy.Integer(_LEAD)
    for n in widths:
        view = layout([rows, sympy.Integer(n)], offset)
        found.append(ir.TensorBox(ir.ReinterpretView(data=data, layout=view)))
        offset += rows * n
    return found
