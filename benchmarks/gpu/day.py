"""The GPU day: what a GPU is measured for, in two calls of some minutes each.

    python -m benchmarks.gpu.day --call 1 --seconds 430 --out /tmp/gpu --keep gpu-out   # on a machine with a GPU
    python -m benchmarks.gpu.day --call 2 --seconds 300 --out /tmp/gpu --keep gpu-out   # adds to the same record
    python -m benchmarks.gpu.day --device cpu --tiny                                    # the same code without a GPU

All parts of a call build at once, each in a process. Then they get the device one after another, in the order below,
with nothing else running: turns begin when every part has built, or when the limits of all would not fit into the
seconds left; whatever still builds is paused during a turn. A part that is late, fails or outlasts its limit keeps what
it measured. ``gpu.json`` is written as they go.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.common import commit, write_json
from benchmarks.gpu.running import Running, Turn

PARTS: dict[str, Turn] = {
    "facts": Turn(["facts"], 20.0),
    "export_small": Turn(["export", "--preset", "small"], 90.0),
    "train": Turn(["train"], 50.0, threads=4),
    "kernels": Turn(["kernels"], 60.0),
    "neighbors": Turn(["neighbors"], 30.0),
    "tests": Turn(["tests"], 200.0, timed=False),
    "export_medium": Turn(["export", "--preset", "medium"], 70.0),
    "nequip": Turn(["nequip"], 50.0),
    "train_medium": Turn(
        ["train", "--name", "train_medium", "--steps", "medium/full", "medium/eager"], 30.0, threads=4
    ),
    "train_forces": Turn(["train", "--name", "train_forces", "--steps", "small/forces"], 15.0, threads=4),
    "train_nequip": Turn(
        ["train", "--name", "train_nequip", "--steps", "small/nequip-allegro compiled"], 20.0, threads=4
    ),
    "loader": Turn(["loader"], 30.0),
    "export_large": Turn(["export", "--preset", "large"], 90.0, threads=4),
}
"""The parts in the order of turns."""
FIRST = ("facts", "export_small", "train", "kernels", "neighbors")
CALLS = {1: FIRST, 2: tuple(name for name in PARTS if name not in FIRST)}
"""What is measured in each of two calls."""
PROGRAMS = {
    "exported float32": "float32",
    "exported tf32": "TF32",
    "chained float32": "float32, chained",
    "chained tf32": "TF32, chained",
    "fused tf32": "TF32, fused",
    "fused chained tf32": "TF32, fused and chained",
}
"""Names of predictions by that of a program in the parts that export."""
SAME = ("export_medium", "export_large", "train_medium", "train_forces", "train_nequip")
"""Parts that run the code of another one, with other sizes: not part of a tiny day."""
PREDICTED: dict[str, dict[str, float]] = json.loads(Path(__file__).with_name("predicted.json").read_text())
"""What ``benchmarks.gpu.predict`` wrote by device, before any measurement."""
SAVE = 20.0
"""Seconds after which the record is written, whether a part has ended or not."""
MOST = 15 * 2**20
"""Bytes of each archive that is kept."""


def command_of(arguments: list[str]) -> list[str]:
    """Return the command of a part."""
    return [sys.executable, "-m", f"benchmarks.gpu.parts.{arguments[0]}", *arguments[1:]]


def start(options: argparse.Namespace, name: str, begin: float) -> Running:
    """Start a part."""
    command = [*command_of(PARTS[name].arguments), "--wait", "--device", options.device]
    command += ["--out", str(options.out), *(["--tiny"] if options.tiny else [])]
    build = options.seconds - PARTS[name].limit * options.stretch - 30.0  # 30 s to open what was built
    command += ["--build", str(max(build, options.seconds / 2))]
    return Running(name, PARTS[name], command, options.out, options.device, begin)


def earlier(options: argparse.Namespace) -> dict[str, Any]:
    """Return the record of calls before this one, of the same commit; remove what this one makes again."""
    found: dict[str, Any] = {"parts": {}, "notes": {}, "seconds": {}}
    for path in (options.before, options.out / "gpu.json"):
        if path is None or not path.exists():
            continue
        record = json.loads(path.read_text())
        if record["commit"] != options.commit:
            print(f"{path} is left out: it is of commit {record['commit']}, not {options.commit}", flush=True)
            continue
        for kind in found:
            found[kind] |= {name: value for name, value in record[kind].items() if name not in options.only}
    for name in options.only:
        (options.out / f"{name}.json").unlink(missing_ok=True)
    shutil.rmtree(options.out / "work", ignore_errors=True)  # models of other code would be measured
    return found


def collect(options: argparse.Namespace, parts: dict[str, Running], before: dict[str, Any]) -> dict[str, Any]:
    """Write and return the record of all parts so far."""
    record: dict[str, Any] = {"command": f"python -m benchmarks.gpu.day {' '.join(sys.argv[1:])}"}
    record |= {"commit": options.commit, "predicted": PREDICTED, **{k: dict(v) for k, v in before.items()}}
    for name, running in parts.items():
        path = options.out / f"{name}.json"
        if path.exists():
            record["parts"][name] = json.loads(path.read_text())
        record["seconds"][name] = dict(running.seconds)
        if running.ended:
            status = running.process.returncode
            note = running.note or (f"exit status {status}: see {name}.log" if status else "")
            if note:
                record["notes"][name] = note
    for folder in filter(None, (options.out, options.keep)):
        write_json(folder / "gpu.json", record)
    return record


def keep(out: Path, folder: Path) -> None:
    """Write two archives into a folder: few files of limited size come back from some machines."""
    folder.mkdir(parents=True, exist_ok=True)
    logs = [
        p
        for pattern in ("*.log", "*.txt", "*.json", "*.jsonl")
        for p in out.glob(pattern)
        if p.name != "gpu.json"
    ]
    pack(folder / "logs.tar.gz", logs)
    pack(folder / "traces.tar.gz", out.glob("trace_*.json.gz"))


def pack(archive: Path, files: Iterable[Path]) -> None:
    """Write an archive of the smallest files, as many as are within ``MOST``."""
    part, size = archive.with_name(f".{archive.name}"), 0
    with tarfile.open(part, "w:gz") as target:
        for path in sorted(files, key=lambda p: p.stat().st_size):
            size += path.stat().st_size
            if size > MOST:
                print(f"{path.name} is left out of {archive.name}: it is too large", flush=True)
                break
            target.add(path, path.name)
    part.replace(archive)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the parts and return the record."""
    before, begin = earlier(options), time.monotonic()
    parts = {name: start(options, name, begin) for name in PARTS if name in options.only}
    turns = options.stretch * sum(part.turn.limit for part in parts.values() if part.turn.timed)
    last = max(options.seconds - turns, options.seconds / 3)  # turns begin then, whatever still builds
    written, saved = set[str](), begin
    try:
        while len(written) < len(parts):
            step(list(parts.values()), time.monotonic() - begin > last, options.stretch)
            if time.monotonic() - begin > options.seconds:
                for part in parts.values():
                    if not part.ended:
                        part.kill(f"the {options.seconds:.0f} s of the day were over")
                break
            for name, part in parts.items():
                if part.ended and name not in written:
                    written.add(name)
                    print(f"[{part.seconds['ended']:4.0f} s] {name} {part.note or 'ended'}", flush=True)
                    collect(options, parts, before)
                    if options.keep:
                        keep(options.out, options.keep)
            if time.monotonic() > saved + SAVE:
                saved = time.monotonic()
                collect(options, parts, before)
            time.sleep(0.1)
    finally:
        for part in parts.values():
            if not part.ended:
                part.kill("the day was interrupted")
        record = collect(options, parts, before)
        if options.keep:
            keep(options.out, options.keep)
        for part in parts.values():
            part.close()
    return record


def step(parts: list[Running], late: bool, stretch: float) -> None:
    """End what is over its limit, and give the next turn."""
    for part in parts:
        limit = part.turn.limit * stretch
        if not part.ended and part.spent() > limit:
            part.kill(f"over its {limit:.0f} s")
        if part.waiting and not part.turn.timed:
            part.go()
    if any(part.turn.timed and "began" in part.seconds and not part.ended for part in parts):
        return
    ready = [part for part in parts if part.waiting]
    building = [part for part in parts if part.busy]
    if ready and (late or not building):
        for part in building:
            part.pause()
        ready[0].go()
        return
    for part in building:
        part.resume()


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
                called = "bare float32" if program == "exported float32" else program  # without its checks
                found[f"{preset}, {atoms:,} atoms, {label}, ms"] = find(part, "ms", str(atoms), called)
            peak = find(part, "peak_bytes_per_edge", "5184", program)
            found[f"{preset}, {label}, peak kB per edge"] = peak / 1e3 if peak else None
        graph = find(part, "ms", "192", "cuda graph float32")
        found[f"{preset}, 192 atoms, float32, CUDA graph, ms"] = graph
    for precision in ("float32", "TF32"):
        step = row("train", preset="small", frames=256, step="full", precision=precision)
        found[f"small, training step of 256 frames, {precision}, ms"] = step.get("ms")
    share = row("kernels", op="to_atoms", edges=468_000, l_max=2, channels=64)
    found["to_atoms, 468,000 edges, share of copy bandwidth"] = share.get("share_of_copy")
    times = find("export_small", "ms", "5184") or {}
    ase, bare = times.get("ase float32"), times.get("bare float32")
    found["ASE over the bare call, small, 5,184 atoms"] = ase / bare if ase and bare else None
    return {name: found.get(name) for names in record["predicted"].values() for name in names}


def report(record: dict[str, Any]) -> str:
    """Return a table of parts, failures, and predictions beside measurements."""
    lines = []
    for name, section in record["parts"].items():
        failed = ", ".join(section.get("failed", {}))
        states = [record["notes"].get(name), failed and f"failed: {failed}", section.get("skipped")]
        state = "; ".join(filter(None, states)) or "ok"
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
    parser.add_argument("--seconds", type=float, default=430.0)
    parser.add_argument("--stretch", type=float, default=1.0, help="factor on the limits of the parts")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, for a test of the code")
    parser.add_argument("--call", type=int, choices=CALLS, help="the parts of one of two calls")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts; by default all")
    parser.add_argument("--out", type=Path, default=Path("gpu-out"), help="folder to work in")
    parser.add_argument("--keep", type=Path, help="folder for the record and two archives")
    parser.add_argument("--before", type=Path, help="record of another call, whose parts are kept")
    parser.add_argument("--commit", help="of the working tree, where git cannot tell")
    options = parser.parse_args()
    names = options.only or CALLS.get(options.call, PARTS)
    options.only = [name for name in names if options.only or not options.tiny or name not in SAME]
    options.out, options.commit = options.out.resolve(), options.commit or commit()
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the parts end too
    record = run(options)
    print(report(record))
    return int(bool(record["notes"]) or any("failed" in section for section in record["parts"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
