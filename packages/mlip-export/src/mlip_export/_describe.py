"""Metadata as lines of text."""

from __future__ import annotations

from typing import Any

from mlip_export.model_file import Metadata
from mlip_export.products.pack import LANES


def describe(metadata: Metadata) -> str:
    """Return elements, cutoffs, units, precision, versions, size, verification and training summary, one per line.

    The run's configuration and lists are left out of the summary.

    Parameters
    ----------
    metadata : Metadata

    Returns
    -------
    str
        Lines ``name: value``, without a newline at the end.
    """
    m = metadata
    distinct = {c for row in m.cutoffs for c in row}
    lines = [
        ("model", f"{m.model}, {m.parameters:,} parameters"),
        (
            "elements",
            " ".join(e if n == e else f"{n} ({e})" for n, e in zip(m.type_names, m.elements, strict=True)),
        ),
        ("cutoff", f"{m.cutoff:g} Å" + ("" if len(distinct) == 1 else f" ({len(distinct)} values by pair)")),
        ("units", f"{m.length_unit}, {m.energy_unit}"),
        ("precision", _precision(m)),
        ("matrix products", _products(m.products)),
        *([("two-body table", _table(m.two_body_table))] if m.two_body_table else []),
        ("runs on", f"{m.device} ({m.isa}), torch {'.'.join(m.torch_version.split('.')[:2])}"),
        (
            "one call",
            f"at most {m.max_edges:,} edges and {m.max_atoms:,} atoms; {m.bytes_per_edge:,} bytes per edge and "
            f"{m.bytes_per_atom:,} per atom",
        ),
        ("compiled by", f"mlip-export {m.exporter_version} with torch {m.torch_version}"),
        ("format", f"{m.format} version {m.format_version}"),
        ("weights", f"sha256 {m.checksum}"),
        ("against eager", _verification(m.verification)),
        ("against float64", _error(m.verification)),
    ]
    lines += [(f"training: {name.removeprefix('training.')}", value) for name, value in _flat(m.training)]
    if len(distinct) > 1:
        for a, row in zip(m.type_names, m.cutoffs, strict=True):
            pairs = (f"{a}-{b} {c:g}" for b, c in zip(m.type_names, row, strict=True))
            lines.append((f"cutoffs of {a}, Å", ", ".join(pairs)))
    return "\n".join(f"{name}: {value}" for name, value in lines)


def _verification(found: dict[str, Any]) -> str:
    if "comparisons" not in found:
        return "not compared (products of bf16 round as sums are ordered)" if found else "not recorded"
    return (
        f"{found['comparisons']} comparisons, largest difference {found['max_energy']:.2g} eV per atom, "
        f"{found['max_force']:.2g} eV/Å"
    )


def _precision(m: Metadata) -> str:
    products = "" if m.precision == "float32" else f" with {m.precision} products"
    layers = ", fused layers" if m.config.get("fused_layers") else ""
    return f"{m.dtype} network{products}{layers}, float64 geometry, energies and forces"


_CODE = {LANES["avx2"]: "AVX2", LANES["avx512"]: "AVX-512", LANES["amx"]: "AMX"}


def _products(found: dict[str, Any]) -> str:
    if not found:
        return "torch's"
    if "lanes" not in found:
        return _chained(found)
    times = "; ".join(f"{name} {value:.3g} ms" for name, value in found["milliseconds"].items())
    measured = "measured when exported: " + (times or f"{found['speedup']:.2f} times as fast as torch.mm")
    kernels = dict(found["kernels"])
    theirs = kernels.pop("torch", 0)
    if found["chosen"] == "torch":
        return f"torch's ({measured})" if times else "torch's"
    ours = sum(kernels.values())
    return f"{ours} of {ours + theirs} by mlip-export's kernel ({_CODE[found['lanes']]}; {measured})"


def _table(found: dict[str, Any]) -> str:
    fewest, most = found["intervals"]
    return (
        f"forces within {found['tolerance']:g} eV/Å of the model in float64 (largest difference found "
        f"{found['max_force']:.2g}), {fewest:,} to {most:,} intervals per pair of types, "
        f"{found['bytes'] / 2**20:.1f} MiB"
    )


def _chained(found: dict[str, Any]) -> str:
    times = "; ".join(f"{name} {value:.3g} ms" for name, value in found["milliseconds"].items())
    kernels = found["kernels"]
    if found["chosen"] == "torch":
        return f"torch's (measured when exported: {times})" if times else "torch's"
    pairs = 2 * (kernels["forward"] + kernels.get("backward", 0))
    why = f"measured when exported: {times}" if times else "chosen by the option"
    return f"{pairs} of {pairs + kernels.get('torch', 0)} in pairs by mlip-export's kernels ({why})"


def _error(found: dict[str, Any]) -> str:
    if "float64" not in found:
        return "not recorded"
    e = found["float64"]
    return (
        f"largest difference {e['max_energy']:.2g} eV per atom, {e['max_force']:.2g} eV/Å; forces {e['rms_force']:.2g} "
        f"of {e['rms_of_forces']:.2g} eV/Å rms"
    )


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in values.items():
        if name == "config" or isinstance(value, list | tuple):
            continue
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{name}.")
        else:
            lines.append((f"{prefix}{name}", f"{value:.6g}" if isinstance(value, float) else str(value)))
    return lines
