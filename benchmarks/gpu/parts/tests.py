"""The tests with the marker gpu: how many passed, which failed, how long each took."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.common import ROOT
from benchmarks.gpu.part import Part

SHARES = 8
"""Processes of pytest that run at once."""


def run(part: Part, arguments: Sequence[str], shares: int = 1, every: float = 2.0) -> None:
    """Run pytest in so many processes, and write what is over into the section every few seconds."""
    running, files = [], []
    try:
        for number in range(shares):
            outcomes, log = (part.out / f"tests_{number}.{ending}" for ending in ("jsonl", "txt"))
            outcomes.unlink(missing_ok=True)
            files.append((outcomes, log))
            command = [sys.executable, "-m", "pytest", "-p", "benchmarks.gpu.testing", *arguments]
            command += ["--outcomes", str(outcomes), "--share", str(number), str(shares)]
            with log.open("w") as file:
                running.append(subprocess.Popen(command, cwd=ROOT, stdin=-3, stdout=file, stderr=-2))
        over = False
        while not over:
            end = time.monotonic() + every
            while not over and time.monotonic() < end:
                over = all(process.poll() is not None for process in running)
                time.sleep(0.1)
            texts = [path.read_text() for path, _ in files if path.exists()]
            lines = [line for text in texts for line in text.splitlines(keepends=True)]
            summarize(part, [json.loads(line) for line in lines if line.endswith("\n")])
            part.save()
    finally:
        for process in running:
            process.kill()
            process.wait()
    part.section["tail"] = "".join(log.read_text()[-1500:] for _, log in files)
    for (_, log), process in zip(files, running, strict=True):
        if process.returncode not in (0, 1, 5):  # interrupted, an error of pytest's or of the command
            note = f"exit status {process.returncode}: {log.read_text()[-1500:]}"
            part.section.setdefault("failed", {})[log.stem] = note


def summarize(part: Part, found: Sequence[dict]) -> None:
    """Count outcomes of tests, and name the failures, the skipped and the longest."""
    by_outcome = {
        kind: [t for t in found if t["outcome"] == kind] for kind in ("passed", "failed", "skipped")
    }
    failed = {test["test"] for test in by_outcome["failed"]}  # a teardown can fail too
    part.section["passed"] = sum(test["test"] not in failed for test in by_outcome["passed"])
    part.section["skipped_tests"] = [test["test"] for test in by_outcome["skipped"]]
    longest = sorted(found, key=lambda test: -test["seconds"])[:10]
    part.section["longest_s"] = {test["test"]: test["seconds"] for test in longest}
    if failed:
        part.section["failed"] = {test["test"]: test["why"] for test in by_outcome["failed"]}


def main() -> None:
    """Run the tests; without a GPU all would be skipped: that they are found and import is what is checked then."""
    part = Part("tests")
    part.turn()
    files = [str(path) for path in sorted(ROOT.glob("packages/*/tests/test_gpu.py"))]
    chosen = ["-q", "-m", "gpu and not slow", "-W", "default", "-p", "no:cacheprovider", *files]
    if not files:
        part.section["skipped"] = "no file packages/*/tests/test_gpu.py"
    elif part.tiny:
        run(part, [*chosen, "-n", "0", "--collect-only"])
        found = re.search(r"(\d+)(?:/\d+)? tests collected", part.section["tail"])
        part.section["collected"] = int(found[1]) if found else 0
    else:
        run(part, [*chosen, "-n", "0", "--tb", "short"], SHARES)
    part.save()


if __name__ == "__main__":
    main()
