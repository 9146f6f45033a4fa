"""The script that re-runs every table: its commands exist, and a failure neither hides nor spoils a record."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from pathlib import Path

import pytest
from benchmarks import tables


def test_commands_name_modules_that_exist() -> None:
    places = {"python": "python", "nequip": "python", "work": "w", "data": "d", "results": "r"}
    for commands in tables.TABLES.values():
        for template in commands:
            words = shlex.split(template.format(**places))
            words = [w for w in words if not w.split("=")[0].isupper() and "GLIBC" not in w]
            assert words[0] in ("python", "cp")
            if words[0] == "python":
                assert words[1] == "-m" and importlib.util.find_spec(words[2]), words[2]


def test_a_failure_is_reported_and_keeps_the_former_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    monkeypatch.setattr(tables, "RESULTS", results)
    command = "KEY=word {python} -c \"import os; open('{results}/a.json', 'w').write(os.environ['KEY'] + ' {work}')\""
    monkeypatch.setattr(tables, "TABLES", {"good": [command], "bad": ["{python} -c 'raise SystemExit(3)'"]})
    (results / "tables.json").write_text(json.dumps({"bad": {"minutes": 7}}))
    monkeypatch.setattr(sys, "argv", ["tables.py", "--work", str(tmp_path / "work"), "--only", "good", "bad"])
    assert tables.main() == 1
    done = json.loads((results / "tables.json").read_text())
    assert done["bad"] == {"minutes": 7}
    assert done["good"]["commands"] == [command] and done["good"]["minutes"] >= 0
    assert (results / "a.json").read_text() == "word tables-out"
