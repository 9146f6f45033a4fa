"""What the device is and reaches: memory copy, matrix products, versions."""

from __future__ import annotations

import subprocess

import torch
from benchmarks.gpu.part import Part


def smi() -> str:
    """Return what nvidia-smi prints."""
    return subprocess.run(["nvidia-smi"], capture_output=True, text=True).stdout


def products(part: Part, m: int, k: int, n: int, dtype: torch.dtype) -> float:
    """Return 1e12 operations per second of a matrix product."""
    a = torch.randn(m, k, device=part.device, dtype=dtype)
    b = torch.randn(k, n, device=part.device, dtype=dtype)
    return 2 * m * k * n / part.milliseconds(lambda: a @ b) / 1e9


def main() -> None:
    """Measure the ceilings."""
    part = Part("facts")
    part.turn()
    device, found = part.device, part.section
    if device.type == "cuda":
        part.attempt("nvidia-smi", lambda: found.update(nvidia_smi=smi()))
        found["capability"] = list(torch.cuda.get_device_capability(device))
        found["cuda"] = torch.version.cuda or torch.version.hip
    bandwidth = part.attempt("copy", lambda: part.copy_bandwidth(part.pick(2**30, 2**20)))
    found["copy_TBps"] = bandwidth and bandwidth / 1e12
    part.save()
    sizes = {
        "square": part.pick((8192,) * 3, (64,) * 3),
        "edges": part.pick((468_000, 256, 256), (512, 64, 64)),
    }
    for name, size in sizes.items():
        for label in ("float32", "tf32", "bfloat16"):
            torch.set_float32_matmul_precision("high" if label == "tf32" else "highest")
            dtype = torch.bfloat16 if label == "bfloat16" else torch.float32
            key = f"mm_{name}_{label}_TFLOPs"
            found[key] = part.attempt(key, lambda s=size, d=dtype: products(part, *s, d))
            part.save()
    torch.set_float32_matmul_precision("highest")


if __name__ == "__main__":
    main()
