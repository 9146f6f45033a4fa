"""Tables of the READMEs are what the records say."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import readme_tables


@pytest.mark.parametrize("path", readme_tables.readmes(), ids=lambda p: p.parent.name)
def test_tables_are_their_records(path: Path) -> None:
    text = path.read_text()
    assert readme_tables.filled(text) == text, "python benchmarks/readme_tables.py writes them"


def test_every_table_is_asked_for_somewhere() -> None:
    text = "".join(path.read_text() for path in readme_tables.readmes())
    assert {found[2] for found in readme_tables.ASKED.finditer(text)} == set(readme_tables.MADE)


def test_an_old_figure_is_replaced() -> None:
    text = "before\n<!-- results: ddp -->\n| old |\n<!-- end -->\nafter\n"
    new = readme_tables.filled(text)
    assert "| old |" not in new and readme_tables.MADE["ddp"]() in new
    assert new.startswith("before\n<!-- results: ddp -->\n") and new.endswith("<!-- end -->\nafter\n")
    with pytest.raises(KeyError, match="nothing_makes_this"):
        readme_tables.filled(text.replace("ddp", "nothing_makes_this"))
