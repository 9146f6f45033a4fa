"""A C++ kernel as an Inductor template: pointers in, one contiguous output, no fusion with neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch._inductor import ir
from torch._inductor.codegen.cpp_template import CppTemplate
from torch._inductor.codegen.cpp_utils import DTYPE_TO_CPP
from torch._inductor.utils import parallel_num_threads
from torch._inductor.virtualized import V

# Elements left free before the output. Inductor fuses a pointwise consumer into a template only where both
# have the same index, and this kernel has no place for one; with the output off by 64 bytes none ever has.
_LEAD = 16


SCALE = "scale"
"""Name of the input that may have rows with a stride, ``scale_row``: a gradient that is a slice of a wider one."""


class Kernel(CppTemplate):
    """One kernel: ``prelude`` before the function, ``body`` inside it, with the inputs' names as pointers."""

    def __init__(
        self,
        name: str,
        input_nodes: Sequence[Any],
        layout: Any,
        prelude: str,
        names: Sequence[str],
        body: str,
    ) -> None:
        super().__init__(f"equitensor_{name}", list(input_nodes), layout, parallel_num_threads())
        self.prelude = prelude
        self.names = names
        self.body = body

    def render(  # type: ignore[override]
        self, kernel: Any, template_buffer_node: Any = None, epilogue_nodes: Any = None, **kwargs: Any
    ) -> str:
        """Return the source of the kernel."""
        if epilogue_nodes:
            raise RuntimeError(
                f"epilogue_nodes must be empty: kernels have no fused consumers, got {epilogue_nodes!r}"
            )
        out = self.output_node if template_buffer_node is None else template_buffer_node
        inputs = {f"in{i}": node for i, node in enumerate(self.input_nodes)}
        signature = kernel.def_kernel(inputs=inputs, outputs={"output": out})
        lines = []
        for name, node in zip(self.names, self.input_nodes, strict=True):
            element = DTYPE_TO_CPP[node.get_dtype()]
            start = kernel.index(node, [0] * len(node.get_size()))
            lines.append(f"const {element}* {name} = &({start});")
            for d in range(len(node.get_size())):
                lines.append(f"[[maybe_unused]] const int64_t {name}_{d} = {kernel.size(node, d)};")
            if name == SCALE:
                lines.append(f"const int64_t {name}_row = {kernel.stride(node, 0)};")
        scalar = DTYPE_TO_CPP[self.layout.dtype]
        lines.append(f"using T = {scalar};")
        lines.append(f"T* out = &({kernel.index(out, [0])}) + {_LEAD};")
        body = "\n".join(lines) + "\n" + self.body
        return f'{self.header().getvalue()}\n{self.prelude}\nextern "C" {signature}\n{{\n{body}\n}}\n'


@cache
def headers(*names: str) -> str:
    """Return the text of C++ files beside this module, one after the other."""
    return "".join(files("equitensor.backends.inductor").joinpath(name).read_text() for name in names)


def _with_rows(x: Any) -> Any:
    """Return a matrix whose rows are contiguous, at any distance: ``x`` itself if it is one, else a copy."""
    x = ir.ExternKernel.realize_input(x)
    if ir.is_storage_and_layout(x):
        x.freeze_layout()
        if V.graph.sizevars.statically_known_equals(x.get_stride()[-1], 1):
            return x
    return ir.ExternKernel.require_contiguous(x)


def emit(
    name: str, inputs: dict[str, Any], size: Sequence[Any], prelude: str, body: str, scale: Any = None
) -> Any:
    """Lower to a :class:`Kernel` with these inputs (made contiguous), returning the (contiguous) output."""
    given = [ir.ExternKernel.require_contiguous(ir.ExternKernel.realize_input(x)) for x in inputs.values()]
    names = list(inputs)
    if scale is not None:
        given.append(_with_rows(scale))
        names.append(SCALE)
    nodes = [ir.InputsKernel.unwrap_storage_for_input(x) for x in given]
    dtype, device = nodes[0].get_dtype(), torch.device("cpu")
    size = [sympy.expand(s) for s in size]
    count = sympy.Integer(1)
    for s in size:
        count = count * s
    layout = ir.FixedLayout(device, dtype, [count + _LEAD], [sympy.Integer(1)])
    template = Kernel(name, nodes, layout, prelude, names, body)
    flat = template.generate().output_node()  # type: ignore[no-untyped-call]
    stride = ir.FlexibleLayout.contiguous_strides(size)
    view = ir.ReinterpretView(
        data=flat.data, layout=ir.FixedLayout(device, dtype, size, stride, offset=sympy.Integer(_LEAD))
    )
    return ir.TensorBox(view)
