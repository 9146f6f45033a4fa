"""Lowerings of the edge–atom sums to C++ segment kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch._inductor.lowering import register_lowering

from equitensor.backends.inductor.kernel import emit, headers

# Components of one tile: with their channels they must fit the registers.
_LARGEST = 12
# Multiply-adds below which a second thread costs more than it saves.
_PARALLEL = 1 << 16

_ATOMS = """
#pragma omp parallel if (work > {parallel})
{{
  const int64_t t = equitensor::thread_number(), n = equitensor::thread_count();
  const int64_t begin = t == 0 ? 0 : equitensor::atom_at(offsets, N, E * t / n);
  const int64_t end = t + 1 == n ? N : equitensor::atom_at(offsets, N, E * (t + 1) / n);
  for (int64_t i = begin; i < end; ++i) {{
    const int64_t first = offsets[i], edges = offsets[i + 1] - first;
{calls}
  }}
}}
"""

_EDGES = """
#pragma omp parallel if (work > {parallel})
{{
  const int64_t t = equitensor::thread_number(), n = equitensor::thread_count();
  const int64_t end = E * (t + 1) / n;
  for (int64_t first = E * t / n; first < end;) {{
    const int64_t i = centers[first];
    const int64_t edges = std::min(offsets[i + 1], end) - first;
{calls}
    first += edges;
  }}
}}
"""


def _prelude() -> str:
    return headers("vec.h", "edge_atom.h")


def _tiles(dims: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (block, first component, number of components) of tiles that fit the registers."""
    k = 0
    for block, size in enumerate(dims):
        parts = -(-size // _LARGEST)
        done = 0
        for part in range(parts):
            width = size // parts + (part < size % parts)
            yield block, k + done, width
            done += width
        k += size


def _groups(dims: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Yield (first component, block of each component) of groups whose sums fit the registers."""
    blocks = [block for block, size in enumerate(dims) for _ in range(size)]
    for k in range(0, len(blocks), 16):
        yield k, blocks[k : k + 16]


def _sizes(edges: str, atoms: str, channels: str, dims: Sequence[int]) -> str:
    """Return names for the sizes that the bodies use."""
    return (
        f"const int64_t E = {edges}, N = {atoms}, C = {channels};\n"
        f"constexpr int64_t R = {len(dims)}, D = {sum(dims)};\nconst int64_t work = E * D * C;\n"
    )


_CASES = (
    ("for (; u + 2 * L <= C; u += 2 * L)", 2, "true", "0"),
    ("for (; u + L <= C; u += L)", 1, "true", "0"),
    ("if (u < C)", 1, "false", "C - u"),
)
"""Loops over the channels of an edge: (head, vectors per step, whether whole, lanes of the last)."""


def _tiled(function: str, width: int, scaled: bool, arguments: str) -> str:
    """Return calls of ``function`` that cover all channels: tiles of several vectors, of one, and the rest."""
    many, flag = f"equitensor::vectors<T>({width})", str(scaled).lower()
    return f"""    {{
      constexpr int64_t L = equitensor::Vec<T>::size(), V = {many};
      int64_t u = 0;
      for (; u + V * L <= C; u += V * L) equitensor::{function}<T, {width}, V, true, {flag}>({arguments}, 0);
      for (; u + L <= C; u += L) equitensor::{function}<T, {width}, 1, true, {flag}>({arguments}, 0);
      if (u < C) equitensor::{function}<T, {width}, 1, false, {flag}>({arguments}, C - u);
    }}"""


def _per_edge(pointers: str, body: Callable[[int, str, str], list[str]]) -> str:
    """Return a loop over an atom's edges and their channels, its body from (vectors, whether whole, lanes)."""
    rows = []
    for head, vectors, whole, count in _CASES:
        rows += [f"      {head} {{", *(f"        {line}" for line in body(vectors, whole, count)), "      }"]
    return (
        "    const T* f = features + i * D * C;\n"
        "    for (int64_t e = first; e < first + edges; ++e) {\n"
        f"      {pointers}\n"
        "      constexpr int64_t L = equitensor::Vec<T>::size();\n      int64_t u = 0;\n"
        + "\n".join(rows)
        + "\n    }"
    )


def _atoms(w: Any, basis: Any, scale: Any, offsets: Any, dims: Sequence[int]) -> Any:
    scales = "nullptr, 0" if scale is None else "scale + first * scale_row + u, scale_row"
    calls = [
        _tiled(
            "atom_tile",
            width,
            scale is not None,
            f"w + (first * R + {block}) * C + u, R * C, basis + first * D + {k}, D, {scales}, edges, "
            f"out + (i * D + {k}) * C + u, C",
        )
        for block, k, width in _tiles(dims)
    ]
    body = _sizes("w_0", "offsets_0 - 1", "w_2", dims) + _ATOMS.format(
        parallel=_PARALLEL, calls="\n".join(calls)
    )
    size = [offsets.get_size()[0] - 1, sum(dims), w.get_size()[2]]
    return emit("to_atoms", {"w": w, "basis": basis, "offsets": offsets}, size, _prelude(), body, scale)


def _weights(basis: Any, features: Any, scale: Any, centers: Any, offsets: Any, dims: Sequence[int]) -> Any:
    scaled = str(scale is not None).lower()
    scales = "nullptr" if scale is None else "scale + e * scale_row + u"

    def body(vectors: int, whole: str, count: str) -> list[str]:
        lines, k = [], 0
        for block, width in enumerate(dims):
            lines.append(
                f"equitensor::weight_sum<T, {width}, {vectors}, {whole}, {scaled}>"
                f"(y + {k}, f + {k} * C + u, C, {scales}, o + {block} * C + u, {count});"
            )
            k += width
        return lines

    pointers = "const T* y = basis + e * D;\n      T* o = out + e * R * C;"
    text = _sizes("basis_0", "features_0", "features_2", dims) + _EDGES.format(
        parallel=_PARALLEL, calls=_per_edge(pointers, body)
    )
    size = [basis.get_size()[0], len(dims), features.get_size()[2]]
    inputs = {"basis": basis, "features": features, "centers": centers, "offsets": offsets}
    return emit("to_weights", inputs, size, _prelude(), text, scale)


def _basis(w: Any, features: Any, scale: Any, centers: Any, offsets: Any, dims: Sequence[int]) -> Any:
    scaled = str(scale is not None).lower()
    scales = "nullptr, 0" if scale is None else "scale + first * scale_row, scale_row"
    calls = [
        f"    equitensor::basis_rows<T, {scaled}, {', '.join(map(str, blocks))}>(w + first * R * C, R * C, "
        f"features + (i * D + {k}) * C, C, {scales}, edges, out + first * D + {k}, D);"
        for k, blocks in _groups(dims)
    ]
    body = _sizes("w_0", "features_0", "w_2", dims) + _EDGES.format(
        parallel=_PARALLEL, calls="\n".join(calls)
    )
    size = [w.get_size()[0], sum(dims)]
    inputs = {"w": w, "features": features, "centers": centers, "offsets": offsets}
    return emit("to_basis", inputs, size, _prelude(), body, scale)


@register_lowering(torch.ops.equitensor.to_scalars.default, type_promotion_kind=None)
def _to_scalars(
    w: Any, basis: Any, features: Any, centers: Any, offsets: Any, dims: Sequence[int], sources: str = ""
) -> Any:
    sizes = ", ".join(map(str, dims))
    pointers = "const T* y = basis + e * D;\n      const T* v = w + e * R * C;\n      T* o = out + e * C;"
    loop = _per_edge(
        pointers,
        lambda vectors, whole, count: [
            f"equitensor::scalar_sum<T, {vectors}, {whole}, {sizes}>(v + u, y, f + u, C, o + u, {count});"
        ],
    )
    body = _sizes("basis_0", "features_0", "features_2", dims) + _EDGES.format(parallel=_PARALLEL, calls=loop)
    size = [w.get_size()[0], w.get_size()[2]]
    inputs = {"w": w, "basis": basis, "features": features, "centers": centers, "offsets": offsets}
    return emit("to_scalars", inputs, size, _prelude(), body)


@register_lowering(torch.ops.equitensor.to_atoms.default, type_promotion_kind=None)
def _to_atoms(w: Any, basis: Any, centers: Any, offsets: Any, dims: Sequence[int], sources: str = "") -> Any:
    return _atoms(w, basis, None, offsets, dims)


@register_lowering(torch.ops.equitensor.scaled_to_atoms.default, type_promotion_kind=None)
def _scaled_to_atoms(
    w: Any, basis: Any, scale: Any, centers: Any, offsets: Any, dims: Sequence[int], sources: str = ""
) -> Any:
    return _atoms(w, basis, scale, offsets, dims)


@register_lowering(torch.ops.equitensor.to_weights.default, type_promotion_kind=None)
def _to_weights(
    basis: Any, features: Any, centers: Any, offsets: Any, dims: Sequence[int], sources: str = ""
) -> Any:
    return _weights(basis, features, None, centers, offsets, dims)


@register_lowering(torch.ops.equitensor.scaled_to_weights.default, type_promotion_kind=None)
def _scaled_to_weights(
    basis: Any, features: Any, scale: Any, centers: Any, offsets: Any, dims: Sequence[int], sources: str = ""
) -> Any:
    return _weights(basis, features, scale, centers, offsets, dims)


@register_lowering(torch.ops.equitensor.to_basis.default, type_promotion_kind=None)
def _to_basis(
    w: Any, features: Any, centers: Any, offsets: Any, dims: Sequence[int], sources: str = ""
) -> Any:
    return _basis(w, features, None, centers, offsets, dims)


@register_lowering(torch.ops.equitensor.scaled_to_basis.default, type_promotion_kind=None)
def _scaled_to_basis(
    w: Any, features: Any, scale: Any, centers: Any, offsets: Any, dims: Sequence[int], sources: str = ""
) -> Any:
    return _basis(w, features, scale, centers, offsets, dims)
