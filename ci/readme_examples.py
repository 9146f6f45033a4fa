"""Run the examples of READMEs and guides: fenced `python` and `console` blocks, top to bottom, one folder per file.

    python ci/readme_examples.py [FILE.md ...]

Blocks of one file share a folder, and its Python blocks share a namespace; shell blocks find the checkout at
`$REPOSITORY`. Two files run at a time. Without arguments every file runs but those of `ELSEWHERE`. Other blocks
(indented ones, `text`, `yaml`) are for reading; a `yaml` block whose first line is `# NAME.yaml` is written to that
file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {"guides/nequip-allegro.md"}
"""Guides that need what only another session installs (here: interop)."""
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Failed(Exception):
    """An example that failed, with the end of what it printed."""


def run(readme: Path) -> int:
    """Run one README's blocks; returns how many ran."""
    blocks = [
        (kind, text)
        for kind, text in FENCE.findall(readme.read_text())
        if kind in ("python", "console", "yaml")
    ]
    script, count = [], 0
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "REPOSITORY": str(ROOT),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        for kind, text in blocks:
            name = re.match(r"# (\S+\.ya?ml)\n", text)
            if kind == "yaml":
                if name:
                    script.append(f"open({name[1]!r}, 'w').write({text!r})")
                continue
            count += 1
            if kind == "python":
                script.append(f"exec(compile({text!r}, {str(readme)!r}, 'exec'), globals())")
            else:
                script.append(
                    f"import subprocess; subprocess.run(['bash', '-euo', 'pipefail', '-c', {text!r}], check=True)"
                )
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(script)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Failed(f"{readme}: an example failed\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return count


def main() -> None:
    """Run those named, or all."""
    named = [Path(p).resolve() for p in sys.argv[1:]]
    guides = [p for p in sorted(ROOT.glob("guides/*.md")) if p.relative_to(ROOT).as_posix() not in ELSEWHERE]
    readmes = named or [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md")), *guides]
    total = 0
    with ThreadPoolExecutor(2) as pool:
        try:
            for readme, count in zip(readmes, pool.map(run, readmes), strict=True):
                total += count
                print(f"{readme.relative_to(ROOT)}: {count} examples passed", flush=True)
        except Failed as error:
            pool.shutdown(cancel_futures=True)
            sys.exit(str(error))
    print(f"{total} passed, 0 failed")


if __name__ == "__main__":
    main()
