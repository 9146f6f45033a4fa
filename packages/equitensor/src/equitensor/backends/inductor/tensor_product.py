"""Lowerings of the tensor product and its weight gradient to C++ with the coefficients written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch._inductor.lowering import register_lowering

from equitensor.backends.inductor.kernel import emit, headers
from equitensor.irreps import irreps_dim, irreps_slices
from equitensor.paths import Spec, admissible_paths, parse_spec
from equitensor.wigner import coupling

_PARALLEL = 1 << 16

Key = tuple[tuple[int, int, int], tuple[int, int, int]]


def _name(key: Key) -> str:
    return "path_" + "_".join(str(n) for part in key for n in part)


def _path(key: Key) -> str:
    """Return C++ for one coupling, the coefficients as literals; see tensor_product.h."""
    degrees, slots = key
    c, name = coupling(*degrees).transpose(slots), _name(key)
    first, second, out = (range(n) for n in c.shape)
    rows = [f"const Vec<T> a{i} = load<T, Whole>(a + {i} * C, count);" for i in first if c[i].any()]
    rows += [f"const Vec<T> b{j} = load<T, Whole>(b + {j} * C, count);" for j in second if c[:, j].any()]
    rows += [f"const Vec<T> p{i}_{j} = a{i} * b{j};" for i in first for j in second if c[i, j].any()]
    for k in out:
        terms = [(f"Vec<T>(T({c[i, j, k].item()!r}))", f"p{i}_{j}") for i, j in np.argwhere(c[:, :, k])]
        rows.append(f"t[{k}] = {' * '.join(terms[0]) if terms else 'Vec<T>(T(0))'};")
        rows += [f"t[{k}] = at::vec::fmadd({factor}, {product}, t[{k}]);" for factor, product in terms[1:]]
    body = "\n    ".join(rows)
    return f"""
#ifndef EQUITENSOR_{name}
#define EQUITENSOR_{name}
struct {name} {{
  static constexpr int size = {len(out)};
  template <typename T, bool Whole>
  static inline void step(const T* a, const T* b, int64_t C, int count, equitensor::Vec<T>* t) {{
    using namespace equitensor;
    {body}
  }}
}};
#endif
"""


def _keys(spec: Spec, slots: tuple[int, int, int]) -> list[Key]:
    """Return the degrees and the order of operands of each path, which name its function."""
    return [
        ((spec.in1[p.in1][0], spec.in2[p.in2][0], spec.out[p.out][0]), slots) for p in admissible_paths(*spec)
    ]


def _prelude(keys: Sequence[Key]) -> str:
    return headers("vec.h", "tensor_product.h") + "".join(_path(key) for key in dict.fromkeys(keys))


@register_lowering(torch.ops.equitensor.contract.default, type_promotion_kind=None)
def _contract(
    first: Any, second: Any, weights: Any, spec: str, slots: Sequence[int], sources: str = ""
) -> Any:
    parsed = parse_spec(spec)
    i, j, k = slots
    where = [irreps_slices(s) for s in parsed]
    dims = [irreps_dim(s) for s in parsed]
    keys = _keys(parsed, (i, j, k))
    coupled = len(weights.get_size()) == 2
    calls, done = [], set()
    for number, (path, key) in enumerate(zip(admissible_paths(*parsed), keys, strict=True)):
        a, b, o = (where[s][path[s]].start for s in (i, j, k))
        add = "true" if path[k] in done else "false"
        done.add(path[k])
        calls.append(
            f"    equitensor::path<{_name(key)}, T, {'true' if coupled else 'false'}, {add}>("
            f"first + (z * {dims[i]} + {a}) * C, second + (z * {dims[j]} + {b}) * C, "
            f"weights + {number}{' * C' if coupled else ''}, out + (z * {dims[k]} + {o}) * C, C);"
        )
    for missing in set(range(len(parsed[k]))) - done:
        s = where[k][missing]
        calls.append(f"    std::fill_n(out + (z * {dims[k]} + {s.start}) * C, {s.stop - s.start} * C, T(0));")
    body = (
        f"const int64_t Z = first_0, C = first_2;\n"
        f"#pragma omp parallel for if (Z * C * {len(keys)} * 16 > {_PARALLEL})\n"
        "for (int64_t z = 0; z < Z; ++z) {\n" + "\n".join(calls) + "\n}\n"
    )
    size = [first.get_size()[0], dims[k], first.get_size()[2]]
    inputs = {"first": first, "second": second, "weights": weights}
    return emit("contract", inputs, size, _prelude(keys), body)


@register_lowering(torch.ops.equitensor.contract_weights.default, type_promotion_kind=None)
def _contract_weights(x: Any, y: Any, g: Any, spec: str, coupled: bool, sources: str = "") -> Any:
    parsed = parse_spec(spec)
    where = [irreps_slices(s) for s in parsed]
    dims = [irreps_dim(s) for s in parsed]
    keys = _keys(parsed, (0, 1, 2))
    cases = []
    for number, (path, key) in enumerate(zip(admissible_paths(*parsed), keys, strict=True)):
        a, b, o = (where[s][path[s]].start for s in range(3))
        target = f"out + {number} * C" if coupled else "channels.data()"
        after = (
            "" if coupled else f" out[{number}] = std::accumulate(channels.begin(), channels.end(), T(0));"
        )
        cases.append(
            f"    case {number}: equitensor::path_sum<{_name(key)}, T>(x + {a} * C, {dims[0]} * C, y + {b} * C, "
            f"{dims[1]} * C, g + {o} * C, {dims[2]} * C, Z, {target}, C);{after} break;"
        )
    body = (
        f"const int64_t Z = x_0, C = x_2;\n#pragma omp parallel if (Z * C * {len(keys)} * 16 > {_PARALLEL})\n{{\n"
        + ("" if coupled else "  std::vector<T> channels(C);\n")
        + f"#pragma omp for\n  for (int64_t p = 0; p < {len(keys)}; ++p) switch (p) {{\n"
        + "\n".join(cases)
        + "\n  }\n}\n"
    )
    size = [len(keys), x.get_size()[2]] if coupled else [len(keys)]
    prelude = "#include <numeric>\n#include <vector>\n" + _prelude(keys)
    return emit("contract_weights", {"x": x, "y": y, "g": g}, size, prelude, body)
