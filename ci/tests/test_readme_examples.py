"""The runner of the examples in READMEs and docs."""

from __future__ import annotations

from pathlib import Path

import pytest
from ci import readme_examples
from ci.readme_examples import Beginnings, Count, Failed, beginning, blocks, run

PAGE = """
```yaml
# a.yaml
x: 1
```

```python
y = open("a.yaml").read()
```

<!-- not run: needs SLURM -->
```console
sbatch job.sh
```

```console
grep -q 'x: 1' a.yaml
```

```python
assert y.endswith("x: 1\\n")
```
"""


def test_blocks_share_a_folder_and_a_namespace(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert run(page, Beginnings(tmp_path / "beginnings")) == Count(ran=3, not_run=1)


@pytest.mark.parametrize("wrong", ["```python\nassert False\n```\n", "```console\nfalse\n```\n"])
def test_a_failing_block_fails_its_page(tmp_path: Path, wrong: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE + wrong)
    with pytest.raises(Failed, match="an example failed"):
        run(page, Beginnings(tmp_path / "beginnings"))


def test_a_command_that_pages_begin_with_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    first, second = f"echo first >> {log}; echo 1 > a", f"echo second >> {log}; cat a a > b"
    monkeypatch.setattr(readme_examples, "SHARED", (first, second))
    begin = f"```console\n{first}  # makes a\n```\n\n```sh\npip install x\n```\n"
    texts = [
        f"{begin}\n```console\n{second}\ntest $(wc -l < b) = 2\nrm a\n```\n",
        f"{begin}\n```console\n{second}\n```\n\n```python\nassert open('a').read() == '1\\n'\n```\n",
        f"```console\ntouch c\n{first}\n```\n",  # not at the beginning: runs as it stands
    ]
    shared = Beginnings(tmp_path / "beginnings")
    for number, text in enumerate(texts):
        (page := tmp_path / f"{number}.md").write_text(text)
        assert run(page, shared) == Count(ran=text.count("```") // 2 - text.count("```sh"), not_run=0)
    assert log.read_text().split() == ["first", "second", "first"]
    commands, rest = beginning(blocks(texts[0], "page.md"))
    assert commands == [first, second] and [b.text for b in rest] == ["test $(wc -l < b) = 2\nrm a\n"]


def test_a_failing_beginning_fails_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_examples, "SHARED", ("false",))
    page = tmp_path / "page.md"
    page.write_text("```console\nfalse\n```\n")
    with pytest.raises(Failed, match=r"page\.md: an example failed"):
        run(page, Beginnings(tmp_path / "beginnings"))


def test_shared_commands_begin_more_than_one_page() -> None:
    found = [beginning(blocks(p.read_text(), str(p)))[0] for p in readme_examples.pages()]
    for command in readme_examples.SHARED:
        assert sum(command in commands for commands in found) > 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```bash\nls\n```\n", "page.md:1: language must be one of .*, got 'bash'"),
        ("```\nls\n```\n", "language must be one of .*, got ''"),
        ("- item\n\n  ```python\n  x\n  ```\n", "page.md:3: a fence must start its line"),
        ("```python\nx\n", "page.md:1: the fence is not closed"),
        ("```sh\npip install x\nls\n```\n", "page.md:1: sh must hold pip install alone"),
    ],
)
def test_a_block_that_would_be_skipped_is_an_error(text: str, says: str) -> None:
    with pytest.raises(Failed, match=says):
        blocks(text, "page.md")


def test_every_page_of_the_repository_parses() -> None:
    pages = readme_examples.pages()
    names = {page.relative_to(readme_examples.ROOT).as_posix() for page in pages}
    assert {"README.md", "packages/localgraph/README.md", "docs/tutorials/molecular-dynamics.md"} <= names
    assert all((readme_examples.ROOT / name).exists() for name in readme_examples.ELSEWHERE)
    for page in pages:
        blocks(page.read_text(), str(page))
