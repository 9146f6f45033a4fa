"""The tests with the marker gpu: how many passed, which failed, how long each took."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.common import ROOT
from benchmarks.gpu.part import Part

WORKERS = 8


def run(part: Part, arguments: Sequence[str], every: float = 2.0) -> None:
    """Run pytest and write what is over into the section every few seconds."""
    outcomes, log = part.out / "tests_outcomes.jsonl", part.out / "tests_pytest.log"
    outcomes.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "benchmarks.gpu.testing", f"--outcomes={outcomes}"]
    with log.open("w") as file:
        process = subprocess.Popen([*command, *arguments], cwd=ROOT, stdin=-3, stdout=file, stderr=-2)
        try:
            status = None
            while status is None:
                try:
                    status = process.wait(every)
                except subprocess.TimeoutExpired:
                    pass
                lines = outcomes.read_text().splitlines(keepends=True) if outcomes.exists() else []
                summarize(part, [json.loads(line) for line in lines if line.endswith("\n")])
                part.save()
        finally:
            process.kill()
            process.wait()
    part.section |= {"status": status, "tail": log.read_text()[-3000:]}
    if status not in (0, 1, 5):  # interrupted, an error of pytest's or of the command
        part.section.setdefault("failed", {})["pytest"] = f"exit status {status}: see {log.name}"


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
        run(part, [*chosen, "-n", str(WORKERS), "--dist", "loadgroup", "--tb", "short"])
    part.save()


if __name__ == "__main__":
    main()
