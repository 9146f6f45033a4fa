"""RESULTS.md and the tables in READMEs equal the records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import results_page
from benchmarks.result_tables import records, runs


@pytest.mark.parametrize("path", results_page.pages(), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_tables_equal_the_records(path: Path) -> None:
    assert path.read_text() == results_page.pages()[path], "python -m benchmarks.results_page fills them"


def test_an_old_number_is_replaced() -> None:
    text = "before\n<!-- results: ddp -->\n| old |\n<!-- end -->\nafter\n"
    new = results_page.filled(text)
    assert "| old |" not in new and runs.ddp() in new
    assert new.startswith("before\n<!-- results: ddp -->\n") and new.endswith("<!-- end -->\nafter\n")
    with pytest.raises(KeyError, match="nothing_makes_this"):
        results_page.filled(text.replace("ddp", "nothing_makes_this"))


def test_a_changed_record_changes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = results_page.pages()[results_page.PAGE]
    for path in records.RESULTS.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    data = json.loads((tmp_path / "train_small.json").read_text())
    data["versions"] = {"nequip-allegro": "9.9.9"}
    for row in data["results"][0]["rows"]:
        row["peak_mib"] = 123 * 1024
    (tmp_path / "train_small.json").write_text(json.dumps(data))
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    after = results_page.pages()[results_page.PAGE]
    assert before != after and "123.0 GiB" in after and "nequip-allegro 9.9.9" in after


def test_every_table_and_record_is_on_the_page() -> None:
    asked = [found[2] for found in results_page.ASKED.finditer(results_page.PAGE.read_text())]
    assert sorted(asked) == sorted(results_page.TABLES)
    shown = {name for table in results_page.TABLES.values() for name in table.records}
    files = {path.stem for path in records.RESULTS.glob("*.json")}
    assert shown == (files | {"gpu"}) - {"tables"}
