"""Lowerings of the tensor product and its weight gradient to C++ with the coefficients written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._inductor.lowering import register_lowering

from equitensor.inductor.edges import prelude
from equitensor.inductor.template import emit
from equitensor.paths import admissible_paths, coupling, irreps_dim, irreps_slices
from equitensor.spec import Spec, parse_spec

_PARALLEL = 1 << 16

Key = tuple[tuple[int, int, int], tuple[int, int, int]]


def _name(key: Key) -> str:
    return "path_" + "_".join(str(n) for part in key for n in part)


def _function(key: Key) -> str:
    """Return C++ for one coupling: the components of operand slots[2] from those of slots[0] and slots[1].

    ``_step`` computes them for one vector of channels; the coefficients are literals.
    """
    degrees, slots = key
    c = coupling(*degrees).transpose(slots)
    rows, name = [], _name(key)
    rows += [
        f"  const Vec<T> a{i} = load<T, Whole>(a + {i} * C, count);" for i in range(len(c)) if c[i].any()
    ]
    rows += [
        f"  const Vec<T> b{j} = load<T, Whole>(b + {j} * C, count);"
        for j in range(c.shape[1])
        if c[:, j].any()
    ]
    rows += [
        f"  const Vec<T> p{i}_{j} = a{i} * b{j};"
        for i in range(c.shape[0])
        for j in range(c.shape[1])
        if c[i, j].any()
    ]
    for k in range(c.shape[2]):
        terms = [(i, j) for i in range(c.shape[0]) for j in range(c.shape[1]) if c[i, j, k] != 0.0]
        value = "Vec<T>(T(0))"
        for number, (i, j) in enumerate(terms):
            factor = f"Vec<T>(T({float(c[i, j, k])!r}))"
            value = f"{factor} * p{i}_{j}" if number == 0 else f"at::vec::fmadd({factor}, p{i}_{j}, t[{k}])"
            rows.append(f"  t[{k}] = {value};")
        if not terms:
            rows.append(f"  t[{k}] = {value};")
    body = "\n".join(rows)
    size = c.shape[2]
    return f"""
#ifndef EQUITENSOR_{name}
#define EQUITENSOR_{name}
namespace equitensor {{
template <typename T, bool Whole>
inline void {name}_step(const T* a, const T* b, int64_t C, int count, Vec<T>* t) {{
{body}
}}
// out (+)= w t
template <typename T, bool Coupled, bool Add, bool Whole>
inline void {name}_put(const T* a, const T* b, const T* w, T* out, int64_t C, int count) {{
  Vec<T> t[{size}];
  {name}_step<T, Whole>(a, b, C, count, t);
  const Vec<T> factor = Coupled ? load<T, Whole>(w, count) : Vec<T>(*w);
#pragma GCC unroll 64
  for (int k = 0; k < {size}; ++k) {{
    const Vec<T> v = Add ? at::vec::fmadd(factor, t[k], load<T, Whole>(out + k * C, count)) : factor * t[k];
    store<T, Whole>(v, out + k * C, count);
  }}
}}
template <typename T, bool Coupled, bool Add>
__attribute__((noinline)) void {name}(const T* a, const T* b, const T* w, T* out, int64_t C) {{
  constexpr int L = Vec<T>::size();
  int64_t u = 0;
  for (; u + L <= C; u += L)
    {name}_put<T, Coupled, Add, true>(a + u, b + u, w + (Coupled ? u : 0), out + u, C, 0);
  if (u < C) {name}_put<T, Coupled, Add, false>(a + u, b + u, w + (Coupled ? u : 0), out + u, C, C - u);
}}
// sum over k of g t
template <typename T, bool Whole>
inline Vec<T> {name}_dot(const T* a, const T* b, const T* g, int64_t C, int count) {{
  Vec<T> t[{size}];
  {name}_step<T, Whole>(a, b, C, count, t);
  Vec<T> sum = load<T, Whole>(g, count) * t[0];
#pragma GCC unroll 64
  for (int k = 1; k < {size}; ++k) sum = at::vec::fmadd(load<T, Whole>(g + k * C, count), t[k], sum);
  return sum;
}}
// out[u] = sum over rows z, for all channels
template <typename T>
__attribute__((noinline)) void {name}_sum(
    const T* a, int64_t a_row, const T* b, int64_t b_row, const T* g, int64_t g_row, int64_t rows, T* out,
    int64_t C) {{
  constexpr int L = Vec<T>::size();
  int64_t u = 0;
  for (; u + L <= C; u += L) {{
    Vec<T> sum(T(0));
    for (int64_t z = 0; z < rows; ++z)
      sum = sum + {name}_dot<T, true>(a + z * a_row + u, b + z * b_row + u, g + z * g_row + u, C, 0);
    sum.store(out + u);
  }}
  if (u < C) {{
    Vec<T> sum(T(0));
    for (int64_t z = 0; z < rows; ++z)
      sum = sum + {name}_dot<T, false>(a + z * a_row + u, b + z * b_row + u, g + z * g_row + u, C, C - u);
    sum.store(out + u, C - u);
  }}
}}
}}  // namespace equitensor
#endif
"""


def _keys(spec: Spec, slots: tuple[int, int, int]) -> list[Key]:
    """Return the degrees and the order of operands of each path, which name its function."""
    return [
        ((spec.in1[p.in1][0], spec.in2[p.in2][0], spec.out[p.out][0]), slots) for p in admissible_paths(*spec)
    ]


def _functions(keys: Sequence[Key]) -> str:
    return prelude() + "".join(_function(key) for key in dict.fromkeys(keys))


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
            f"    equitensor::{_name(key)}<T, {'true' if coupled else 'false'}, {add}>("
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
    return emit("contract", inputs, size, _functions(keys), body)


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
            f"    case {number}: equitensor::{_name(key)}_sum<T>(x + {a} * C, {dims[0]} * C, y + {b} * C, "
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
    headers = "#include <numeric>\n#include <vector>\n"
    return emit("contract_weights", {"x": x, "y": y, "g": g}, size, headers + _functions(keys), body)
