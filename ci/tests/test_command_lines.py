"""One manner of command lines: what mlip-train, mlip-export and spice-data have in common."""

from __future__ import annotations

import argparse
import importlib
import signal
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

PROGRAMS = ("mlip-train", "mlip-export", "spice-data")
FILES = {  # commands that write files
    "mlip-train": {"new", "fit", "evaluate"},
    "mlip-export": {"compile", "select"},
    "spice-data": {"download", "select", "convert", "split"},
}


def cli(program: str) -> ModuleType:
    return importlib.import_module(f"{program.replace('-', '_')}.cli")


def commands(program: str) -> dict[str, argparse.ArgumentParser]:
    parser = cli(program).build_parser()
    (found,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def run(program: str, *arguments: str) -> int:
    """Return the exit status, whether main returns it or raises SystemExit."""
    try:
        return cli(program).main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("program", PROGRAMS)
def test_version(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    package = importlib.import_module(program.replace("-", "_"))
    assert run(program, "--version") == 0
    assert capsys.readouterr().out == f"{program} {package.__version__}\n"


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_has_examples_and_the_exit_status(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(program, "--help") == 0
    page = capsys.readouterr().out
    assert f"\nexamples:\n  {program} " in page
    assert "\nexit status: 0 success, 2 error (one line on standard error), " in page and "130" in page
    assert "--print-completion {bash,zsh}" in page
    for command in commands(program):
        assert f"\n    {command} " in page
        assert run(program, command, "--help") == 0
        assert f"\nexamples:\n  {program} {command} " in capsys.readouterr().out, command


@pytest.mark.parametrize("program", PROGRAMS)
def test_info_check_and_output(program: str) -> None:
    parsers = commands(program)
    assert {"info", "check"} < set(parsers)
    with_output = {name for name, p in parsers.items() if {"-o", "--output"} <= set(p._option_string_actions)}
    assert with_output == FILES[program]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("arguments", "prefix"),
    [((), ""), (("nonsense",), ""), (("info",), " info"), (("info", "a", "--bogus"), "")],
)
def test_usage_errors(
    program: str, arguments: tuple[str, ...], prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(program, *arguments) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.splitlines()[-1].startswith(f"{program}{prefix}"), output.err


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("command", ["info", "check"])
def test_user_errors_are_one_line(
    program: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(program, command, str(tmp_path / "missing.yaml")) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert output.err.startswith(f"{program} {command}: ") and "missing.yaml" in output.err


@pytest.mark.parametrize(
    ("program", "function"),
    [
        ("mlip-train", "mlip_train.commands.load_config"),
        ("mlip-export", "mlip_export.model_file.read_metadata"),
        ("spice-data", "spice_data.commands.resolve"),
    ],
)
def test_interrupted(
    program: str, function: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(function, interrupt)
    assert run(program, "info", "example" if program == "spice-data" else "a.yaml") == 128 + signal.SIGINT
    output = capsys.readouterr()
    assert output.err.startswith(f"{program} info: ") and output.err.count("\n") == 1


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
function=$(complete -p "$1"); function=${function##*-F }; function=${function%% *}
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("program", "line", "expected"),
    [
        ("mlip-train", ("",), {"new", "fit", "check", "evaluate", "info"}),
        ("mlip-train", ("fit", "--stop.s"), {"--stop.seconds", "--stop.steps"}),
        ("mlip-train", ("fit", "--resume.mode", ""), {"auto", "must", "never"}),
        ("mlip-train", ("fit", "run."), {"run.yaml"}),
        ("mlip-export", ("",), {"compile", "fetch", "info", "check", "bench", "select", "lammps"}),
        ("mlip-export", ("compile", "--dtype", ""), {"float32", "float64"}),
        ("mlip-export", ("compile", "run."), {"run.yaml"}),
        ("mlip-export", ("lammps", "s"), {"sources", "status"}),
        ("spice-data", ("s",), {"select", "split"}),
        ("spice-data", ("split", "--by", ""), {"frame", "molecule"}),
        ("spice-data", ("info", "run."), {"run.yaml"}),
    ],
)
def test_completion_in_bash(
    program: str,
    line: tuple[str, ...],
    expected: set[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(program, "--print-completion", "bash") == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "run.yaml").write_text("")
    command = ["bash", "-c", COMPLETE, "bash", "./script", program, *line]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(answer.stdout.split()) == expected, answer.stderr
