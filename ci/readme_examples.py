"""Run the examples of READMEs and docs: fenced `python` and `console` blocks, top to bottom, one folder per file.

    python ci/readme_examples.py [FILE.md ...]

Blocks of one file share a folder, and its Python blocks share a namespace. Paths in `docs/` and `lammps/` are as in the
checkout, whose place is `$REPOSITORY`. A `yaml` or `text` block whose first line is `# NAME.EXT` or `# in.NAME` is
written to that file. Two files run at a time, or `$NOX_WORKERS`. Without arguments every file runs but those of
`ELSEWHERE`.

Commands of `SHARED` at the beginning of a page run once: other pages that begin so get copies of the files they made.

A block that cannot run here (SLURM, a GPU) has the line `<!-- not run: REASON -->` above its fence; the report counts
such blocks. `sh` blocks show `pip install` and are for reading. Other languages, and fences that are indented, are
errors, since they would be skipped without notice.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {"docs/tutorials/import-model.md"}
"""Pages that need what only another session installs (here: interop)."""
SHARED = (
    "python docs/example.py",
    "mlip-export compile copper.safetensors -o copper.pt2",
    "mlip-export compile example -o example.pt2",
)
"""Commands that take half a minute and make the same files in every folder."""
RUN = ("python", "console")
WRITTEN = ("yaml", "text")
READ = ("cpp", "cmake", "mermaid", "sh")
"""Languages of blocks that are for reading; `sh` is for `pip install` alone, which the environment has behind it."""
FENCE = re.compile(r"^(?P<indent>[ \t]*)```(?P<language>[^\s`]*)(?P<options>[^\n]*)$")
NOT_RUN = re.compile(r"<!-- not run: (\S[^>]*) -->")
INSTALL = re.compile(r"\s*(#|pip install |$)")
NAME = re.compile(r"# (in\.\w+|[\w-]+\.\w+)\n")


class Failed(Exception):
    """An example that failed, with the end of what it printed."""


class Block(NamedTuple):
    """A fenced block: its language, text, line number, and why it is not run, if so."""

    language: str
    text: str
    line: int
    not_run: str | None


class Count(NamedTuple):
    """Blocks that ran and blocks marked as not run."""

    ran: int
    not_run: int


def blocks(text: str, name: str) -> list[Block]:
    """Return the fenced blocks of a page; `Failed` for a fence that would be skipped without notice."""
    lines = text.splitlines(keepends=True)
    found, i = [], 0
    while i < len(lines):
        fence = FENCE.match(lines[i].rstrip("\n"))
        if fence is None:
            i += 1
            continue
        language, start = fence["language"], i
        if fence["indent"]:
            raise Failed(f"{name}:{start + 1}: a fence must start its line, got {lines[start]!r}")
        if language not in (*RUN, *WRITTEN, *READ):
            raise Failed(
                f"{name}:{start + 1}: language must be one of {(*RUN, *WRITTEN, *READ)}, got {language!r}"
            )
        i += 1
        while i < len(lines) and lines[i].rstrip() != "```":
            i += 1
        if i == len(lines):
            raise Failed(f"{name}:{start + 1}: the fence is not closed")
        marker = NOT_RUN.fullmatch(lines[start - 1].strip()) if start else None
        if language == "sh" and not all(INSTALL.match(line) for line in lines[start + 1 : i]):
            raise Failed(f"{name}:{start + 1}: sh must hold pip install alone; console is run")
        found.append(Block(language, "".join(lines[start + 1 : i]), start + 1, marker and marker[1]))
        i += 1
    return found


def script(page: list[Block], name: str) -> str:
    """Return one Python program that writes the page's files and runs its blocks in order."""
    lines = ["import pathlib, subprocess"]
    for block in page:
        target = NAME.match(block.text)
        if block.not_run:
            continue
        if block.language in WRITTEN and target:
            lines.append(f"pathlib.Path({target[1]!r}).write_text({block.text!r})")
        elif block.language == "python":
            # Blank lines keep the page's line numbers in tracebacks.
            lines.append(f"exec(compile({chr(10) * block.line + block.text!r}, {name!r}, 'exec'), globals())")
        elif block.language == "console":
            lines.append(f"subprocess.run(['bash', '-euo', 'pipefail', '-c', {block.text!r}], check=True)")
    return "\n".join(lines)


def beginning(page: list[Block]) -> tuple[list[str], list[Block]]:
    """Return the commands of `SHARED` that a page begins with, and the page without them."""
    commands: list[str] = []
    for number, block in enumerate(page):
        lines = block.text.splitlines(keepends=True)
        if block.language == "console" and block.not_run is None:
            while lines and (command := lines[0].split("  #")[0].strip()) in SHARED:
                commands.append(command)
                del lines[0]
        elif block.language == "sh":
            continue
        if lines:
            return commands, [block._replace(text="".join(lines)), *page[number + 1 :]]
    return commands, []


class Beginnings:
    """Folders after the commands that pages begin with, each made when the first page asks for it."""

    def __init__(self, root: Path) -> None:
        self.root, self.lock = root, threading.Lock()
        self.made: dict[tuple[str, ...], Path] = {(): root / "0"}
        self.made[()].mkdir(parents=True)
        for name in ("docs", "lammps"):
            (self.made[()] / name).symlink_to(ROOT / name)

    def copy(self, commands: list[str], page: Path, folder: Path) -> None:
        """Copy into `folder` what the commands make, one after the other, in an empty one."""
        with self.lock if commands else contextlib.nullcontext():
            for count in range(len(commands)):
                done, after = tuple(commands[:count]), tuple(commands[: count + 1])
                if after not in self.made:
                    place = self.root / str(len(self.made))
                    shutil.copytree(self.made[done], place, symlinks=True)
                    execute(["bash", "-euo", "pipefail", "-c", commands[count]], page, place)
                    self.made[after] = place
            shutil.copytree(self.made[tuple(commands)], folder, symlinks=True, dirs_exist_ok=True)


def execute(command: list[str], page: Path, folder: Path) -> None:
    """Run a command of a page in a folder; `Failed` with the end of its output if it fails."""
    environment = {
        **os.environ,
        "REPOSITORY": str(ROOT),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{page}: an example failed\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def run(page: Path, beginnings: Beginnings) -> Count:
    """Run one page's blocks."""
    found = blocks(page.read_text(), str(page))
    commands, rest = beginning(found)
    with tempfile.TemporaryDirectory() as folder:
        beginnings.copy(commands, page, Path(folder))
        execute([sys.executable, "-c", script(rest, str(page))], page, Path(folder))
    examples = [block for block in found if block.language in RUN]
    skipped = sum(block.not_run is not None for block in examples)
    return Count(len(examples) - skipped, skipped)


def pages() -> list[Path]:
    """Return the pages of the repository whose examples run in the `docs` session."""
    found = [
        ROOT / "README.md",
        *sorted(ROOT.glob("packages/*/README.md")),
        *sorted(ROOT.glob("docs/**/*.md")),
    ]
    return [page for page in found if page.relative_to(ROOT).as_posix() not in ELSEWHERE]


def main() -> None:
    """Run the pages named, or all."""
    named = [Path(p).resolve() for p in sys.argv[1:]] or pages()
    total = Count(0, 0)
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(int(os.environ.get("NOX_WORKERS", "2"))) as pool,
    ):
        beginnings = Beginnings(Path(folder))
        try:
            for page, count in zip(named, pool.map(lambda page: run(page, beginnings), named), strict=True):
                total = Count(total.ran + count.ran, total.not_run + count.not_run)
                print(
                    f"{os.path.relpath(page, ROOT)}: {count.ran} passed, {count.not_run} not run", flush=True
                )
        except Failed as error:
            pool.shutdown(cancel_futures=True)
            sys.exit(str(error))
    print(f"{total.ran} passed, {total.not_run} not run, 0 failed")


if __name__ == "__main__":
    main()
