"""Kernels of a call: launches, the longest ones, and a trace."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.gpu.part import Part

TOP = 15


def seen(part: Part, name: str, call: Callable[[], object]) -> dict[str, Any]:
    """Profile one call and keep its trace."""
    kinds = torch.profiler.ProfilerActivity
    activities = [kinds.CPU, *([kinds.CUDA] if part.device.type == "cuda" else [])]
    for _ in range(3):
        call()
    part.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        call()
        part.synchronize()
    trace = part.work / f"{name}.json"
    profile.export_chrome_trace(str(trace))
    with trace.open("rb") as source, gzip.open(part.out / f"trace_{name}.json.gz", "wb") as target:
        shutil.copyfileobj(source, target)
    cuda = part.device.type == "cuda"
    duration = "self_device_time_total" if cuda else "self_cpu_time_total"
    rows = [
        (getattr(event, duration) / 1e3, event.count, event.key)
        for event in profile.key_averages()
        if getattr(event, duration) > 0 and (not cuda or event.device_type.name == "CUDA")
    ]
    rows.sort(reverse=True)
    return {
        "launches": sum(count for _, count, _ in rows),
        "busy_ms": sum(ms for ms, _, _ in rows),
        "wall_ms": part.milliseconds(call),
        "top": [{"ms": ms, "count": count, "kernel": key[:120]} for ms, count, key in rows[:TOP]],
    }
