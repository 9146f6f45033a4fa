"""Time of a product by torch's library and by our kernel, on this processor."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch._inductor.codecache import CppCodeCache

from mlip_export import inductor
from mlip_export.products.ops import source
from mlip_export.products.pack import pack

ROWS, ROUNDS = 1920, 15


def faster(shapes: Collection[tuple[int, int]], lanes: int) -> dict[tuple[int, int], float]:
    """Return how many times as fast as ``torch.mm`` our vectors are for matrices (inner, columns), on one thread.

    Both write to a buffer that exists; least processor time of alternating calls, which other processes disturb little.
    """
    functions = "".join(_function(columns, lanes) for columns in sorted({n for _, n in shapes}))
    with inductor.private_cache():
        library = CppCodeCache.load(source() + functions)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            shape: _ratio(getattr(library, f"product_{shape[1]}"), *shape, lanes) for shape in sorted(shapes)
        }
    finally:
        torch.set_num_threads(threads)


def _function(columns: int, lanes: int) -> str:
    return f"""
extern "C" void product_{columns}(const float* a, const float* b, float* c, int64_t K) {{
  using P = mlip_product::Of<{lanes}>;
  mlip_product::Operands o{{}};
  o.a = a; o.b = b; o.c = c; o.K = o.a_row = K; o.c_row = {columns};
  P::blocks({ROWS}, 0, 0, [&](int64_t m, int64_t end, float*) {{
    P::product<{columns}, mlip_product::PLAIN>(o.from(m), end - m);
  }});
}}
"""


def _ratio(function: Callable[..., Any], inner: int, columns: int, lanes: int) -> float:
    x, w, out = torch.randn(ROWS, inner), torch.randn(inner, columns), torch.empty(ROWS, columns)
    packed = pack(w, lanes)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, packed, out)]
    best = [math.inf, math.inf]
    calls: tuple[Callable[[], object], ...] = (
        lambda: torch.mm(x, w, out=out),
        lambda: function(*pointers, ctypes.c_int64(inner)),
    )
    for _ in range(ROUNDS):
        for k, call in enumerate(calls):
            begin = time.thread_time()
            call()
            best[k] = min(best[k], time.thread_time() - begin)
    return best[0] / best[1]
