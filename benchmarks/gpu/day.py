"""The GPU day: every part of it in one command, within the seconds given.

    python -m benchmarks.gpu.day --seconds 570 --out $OUT               # on a machine with a GPU
    python -m benchmarks.gpu.day --device cpu --tiny --out gpu-out      # the same code in minutes, without one
    python -m benchmarks.gpu.day --only export_small train --out $OUT   # parts again

All parts build at once, each in a process; then they get the device one after another, in the order below, and the
first that is ready goes first. A part that is late, fails or outlasts its limit loses only its own section.
``gpu.json`` is written after every part.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, commit, write_json

PARTS: dict[str, tuple[list[str], float]] = {
    "facts": (["facts"], 20.0),
    "tests": (["tests"], 110.0),
    "kernels": (["kernels"], 60.0),
    "export_small": (["export", "--preset", "small"], 60.0),
    "export_medium": (["export", "--preset", "medium"], 60.0),
    "export_large": (["export", "--preset", "large"], 60.0),
    "nequip": (["nequip"], 60.0),
    "train": (["train"], 150.0),
    "neighbors": (["neighbors"], 40.0),
    "profile": (["profile"], 60.0),
}
"""Arguments of each part and its seconds with the device, in the order of turns."""
PROGRAMS = {
    "exported float32": "float32",
    "exported tf32": "TF32",
    "chained float32": "float32, chained",
    "chained tf32": "TF32, chained",
    "fused tf32": "TF32, fused",
}
"""Names of predictions by that of a program in the parts that export."""
SAME = ("export_medium", "export_large")
"""Parts that run the code of another one, with other sizes: not part of a tiny day."""
AFTER = {"profile": "export_small"}
"""Parts that need what another part makes."""
PREDICTED: dict[str, dict[str, float]] = json.loads(Path(__file__).with_name("predicted.json").read_text())
"""What ``benchmarks.gpu.predict`` wrote by device, before any measurement."""


def command_of(arguments: list[str]) -> list[str]:
    """Return the command of a part."""
    return [sys.executable, "-m", f"benchmarks.gpu.parts.{arguments[0]}", *arguments[1:]]


class Running:
    """A part in its process."""

    def __init__(self, name: str, options: argparse.Namespace, threads: int):
        arguments, self.limit = PARTS[name]
        command = [*command_of(arguments), "--wait"]
        command += [
            "--device",
            options.device,
            "--out",
            str(options.out),
            *(["--tiny"] if options.tiny else []),
        ]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "TORCHINDUCTOR_COMPILE_THREADS": str(threads)}
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        if options.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self.name, self.log = name, (options.out / f"{name}.log").open("w")
        self.process = subprocess.Popen(
            command, stdin=-1, stdout=-1, stderr=self.log, text=True, env=environment, start_new_session=True
        )
        self.ready, self.began, self.note = threading.Event(), 0.0, ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == "ready":
                self.ready.set()
            else:
                self.log.write(line)

    @property
    def ended(self) -> bool:
        """Whether the process is over."""
        return self.process.poll() is not None

    def go(self) -> None:
        """Give the part its turn."""
        self.began = time.monotonic()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("go\n")
            self.process.stdin.flush()

    def kill(self, note: str) -> None:
        """End the part and what it started."""
        self.note = note
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Close the pipes and the log."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.wait()
        self.reader.join(timeout=10.0)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


def collect(options: argparse.Namespace, parts: dict[str, Running]) -> dict[str, Any]:
    """Write and return the record of all parts so far."""
    record: dict[str, Any] = {"command": f"python -m benchmarks.gpu.day {' '.join(sys.argv[1:])}"}
    record |= {"commit": commit(), "predicted": PREDICTED, "parts": {}, "notes": {}}
    for name in PARTS:
        path = options.out / f"{name}.json"
        if path.exists():
            record["parts"][name] = json.loads(path.read_text())
        running = parts.get(name)
        if running and running.ended:
            status = running.process.returncode
            note = running.note or (f"exit status {status}: see {name}.log" if status else "")
            if note:
                record["notes"][name] = note
    write_json(options.out / "gpu.json", record)
    return record


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the parts and return the record."""
    names = [name for name in PARTS if name in options.only]
    deadline = time.monotonic() + options.seconds
    threads = max(1, (os.cpu_count() or 1) // max(1, len(names)))
    parts = {name: Running(name, options, threads) for name in names}
    waiting, current = list(names), None
    try:
        while waiting or current:
            now = time.monotonic()
            if now > deadline:
                for name in [*waiting, *([current.name] if current else [])]:
                    parts[name].kill(f"the {options.seconds:.0f} s of the day were over")
                break
            if current and (current.ended or now > current.began + current.limit * options.stretch):
                if not current.ended:
                    current.kill(f"over its {current.limit * options.stretch:.0f} s")
                at = options.seconds - deadline + now
                print(f"[{at:4.0f} s] {current.name} {current.note or 'done'}", flush=True)
                current = None
                collect(options, parts)
            waiting = [name for name in waiting if not parts[name].ended]
            free = [n for n in waiting if parts[n].ready.is_set() and AFTER.get(n) not in waiting]
            if current is None and free:
                current = parts[free[0]]
                waiting.remove(current.name)
                current.go()
            time.sleep(0.1)
    finally:
        for part in parts.values():
            if not part.ended:
                part.kill("the day was interrupted")
            part.close()
    return collect(options, parts)


def predicted(record: dict[str, Any]) -> dict[str, float]:
    """Return the predictions for the device of a record; none for a device without any."""
    names = [section.get("device", "") for section in record["parts"].values()]
    return next((record["predicted"][d] for d in record["predicted"] if any(d in n for n in names)), {})


def measured(record: dict[str, Any]) -> dict[str, float | None]:
    """Return what was measured for each prediction; None where it was not."""

    def find(part: str, *keys: str) -> Any:
        value: Any = record["parts"].get(part, {})
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def row(part: str, **wanted: Any) -> dict[str, Any]:
        rows = find(part, "rows") or []
        return next((r for r in rows if all(r.get(k) == v for k, v in wanted.items())), {})

    found: dict[str, float | None] = {}
    for preset in ("small", "medium", "large"):
        part = f"export_{preset}"
        for program, label in PROGRAMS.items():
            for atoms in (192, 5184):
                found[f"{preset}, {atoms:,} atoms, {label}, ms"] = find(part, "ms", str(atoms), program)
            peak = find(part, "peak_bytes_per_edge", program)
            found[f"{preset}, {label}, peak kB per edge"] = peak / 1e3 if peak else None
        graph = find(part, "ms", "192", "cuda graph float32")
        found[f"{preset}, 192 atoms, float32, CUDA graph, ms"] = graph
    step = row("train", preset="small", frames=256, step="full")
    found["small, training step of 256 frames, float32, ms"] = step.get("ms")
    share = row("kernels", op="to_atoms", edges=468_000, l_max=2, channels=64)
    found["to_atoms, 468,000 edges, share of copy bandwidth"] = share.get("share_of_copy")
    times = find("export_small", "ms", "5184") or {}
    ase, bare = times.get("ase float32"), times.get("exported float32")
    found["ASE over the bare call, small, 5,184 atoms"] = ase / bare if ase and bare else None
    return {name: found.get(name) for names in record["predicted"].values() for name in names}


def report(record: dict[str, Any]) -> str:
    """Return a table of parts, failures, and predictions beside measurements."""
    lines = []
    for name, section in record["parts"].items():
        failed = ", ".join(section.get("failed", {}))
        state = (
            record["notes"].get(name) or section.get("skipped") or (f"failed: {failed}" if failed else "ok")
        )
        lines.append(f"{name:14} {section.get('device', '')}: {state}")
    lines += [f"{name:14} {note}" for name, note in record["notes"].items() if name not in record["parts"]]
    here = predicted(record)
    for name, value in measured(record).items():
        expected = f"{here[name]:8.3g}" if name in here else "       -"
        beside = f"{value:10.3g}" if value is not None else "not measured"
        lines.append(f"{name:52} predicted {expected}   measured {beside}")
    return "\n".join(lines)


def main() -> int:
    """Run the day; exit status 1 if a part failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=570.0)
    parser.add_argument("--stretch", type=float, default=1.0, help="factor on the limits of the parts")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, for a test of the code")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="by default all parts")
    parser.add_argument("--out", type=Path, default=Path("gpu-out"))
    options = parser.parse_args()
    options.only = options.only or [name for name in PARTS if not options.tiny or name not in SAME]
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the parts end too
    record = run(options)
    print(report(record))
    return int(bool(record["notes"]) or any("failed" in section for section in record["parts"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
