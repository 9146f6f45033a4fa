"""What the device is and reaches: memory copy, matrix products, versions."""

from __future__ import annotations

import subprocess

import torch
from benchmarks.gpu.part import Part


def main() -> None:
    """Measure the ceilings."""
    part = Part("facts")
    part.turn()
    device, found = part.device, part.section
    if device.type == "cuda":
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True)
        found["nvidia_smi"] = done.stdout
        found["capability"] = list(torch.cuda.get_device_capability(device))
        found["cuda"] = torch.version.cuda or torch.version.hip
    found["copy_TBps"] = part.copy_bandwidth(part.pick(2**30, 2**20)) / 1e12
    sizes = {
        "square": part.pick((8192,) * 3, (64,) * 3),
        "edges": part.pick((468_000, 256, 256), (512, 64, 64)),
    }
    for name, (m, k, n) in sizes.items():
        for dtype, precision in (("float32", "highest"), ("float32", "high"), ("bfloat16", "highest")):
            a = torch.randn(m, k, device=device, dtype=getattr(torch, dtype))
            b = torch.randn(k, n, device=device, dtype=getattr(torch, dtype))
            torch.set_float32_matmul_precision(precision)
            label = "tf32" if precision == "high" else dtype
            milliseconds = part.milliseconds(lambda a=a, b=b: a @ b)
            found[f"mm_{name}_{label}_TFLOPs"] = 2 * m * k * n / milliseconds / 1e9
    torch.set_float32_matmul_precision("highest")
    part.save()


if __name__ == "__main__":
    main()
