"""The tests with the marker gpu: how many passed, which failed."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as xml

from benchmarks.common import ROOT
from benchmarks.gpu.part import Part


def main() -> None:
    """Run pytest and read its report."""
    part = Part("tests")
    part.turn()
    report = part.out / "tests.xml"
    files = [str(path) for path in sorted(ROOT.glob("packages/*/tests/test_gpu.py"))]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider"]
    command += [f"--junitxml={report}", "-n", part.pick("6", "0"), *part.pick([], ["--collect-only"])]
    if not files:
        part.section["skipped"] = "no file packages/*/tests/test_gpu.py"
        part.save()
        return
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
    part.section |= {"status": done.returncode, "tail": done.stdout[-3000:]}
    if (
        part.tiny
    ):  # without a GPU every test would be skipped: that all are found and import is what is checked
        found = re.search(r"(\d+)(?:/\d+)? tests collected", done.stdout)
        part.section["collected"] = int(found[1]) if found else 0
        if done.returncode not in (0, 5):
            part.section.setdefault("failed", {})["collection"] = done.stdout[-3000:] + done.stderr[-1000:]
    elif report.exists():
        cases = list(xml.parse(report).getroot().iter("testcase"))
        bad = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
        skipped = [c for c in cases if c.find("skipped") is not None]
        part.section["passed"] = len(cases) - len(bad) - len(skipped)
        part.section["skipped_tests"] = len(skipped)
        if bad:
            part.section["failed"] = {f"{c.get('classname')}::{c.get('name')}": "see tests.xml" for c in bad}
    part.save()


if __name__ == "__main__":
    main()
