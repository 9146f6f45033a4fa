"""The command line: what it prints, and one line with status 1 for an error a user can mend."""

import json

import ase.io
import pytest

import localgraph
from mlip_export.cli import main


@pytest.fixture
def model_file(water_model, tmp_path):
    path = tmp_path / "model.safetensors"
    localgraph.save_model(path, water_model, {"metrics": {"force_rmse": 0.05}})
    return path


def test_inspect(water_package, capsys):
    assert main(["inspect", str(water_package)]) == 0
    assert "elements: H O" in capsys.readouterr().out
    assert main(["inspect", "--json", str(water_package)]) == 0
    assert json.loads(capsys.readouterr().out)["type_names"] == ["H", "O"]


def test_check(water_package, model_file, water_model, toy, tmp_path, capsys):
    assert main(["check", str(water_package)]) == 0
    assert "runs here on 7 graphs" in capsys.readouterr().out
    assert main(["check", str(water_package), "--model", str(model_file)]) == 0
    assert "agrees with" in capsys.readouterr().out
    other = tmp_path / "other.safetensors"
    localgraph.save_model(other, toy(("H", "O"), 3.5, cutoffs=[[2.5, 3.5], [3.5, 3.5]], seed=5))
    assert main(["check", str(water_package), "--model", str(other)]) == 1
    assert "checksums differ" in capsys.readouterr().err


def test_bench(water_package, make_water, tmp_path, capsys):
    ase.io.write(tmp_path / "water.xyz", make_water(2))
    assert (
        main(["bench", str(water_package), str(tmp_path / "water.xyz"), "--repeats", "2", "--threads", "1"])
        == 0
    )
    out = capsys.readouterr().out
    assert out.startswith("24 atoms, ") and "1 thread(s): " in out and "peak memory" in out


def test_bench_of_a_file_that_is_no_structure(water_package, tmp_path, capsys):
    (tmp_path / "s.foo").write_text("a\n")
    assert main(["bench", str(water_package), str(tmp_path / "s.foo")]) == 1
    error = capsys.readouterr().err
    assert "structure: required a file that ASE reads" in error and error.count("\n") == 1


def test_lammps_paths(plugin, capsys):
    assert main(["lammps", "path"]) == 0
    assert capsys.readouterr().out.strip() == str(plugin.parent)
    assert main(["lammps", "build"]) == 0
    assert capsys.readouterr().out.strip() == str(plugin)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["inspect", "none.pt2"], "mlip-export inspect: path: required an existing .pt2 package"),
        (
            ["compile", "none.safetensors", "-o", "a.pt2"],
            "mlip-export compile: path: required an existing model file",
        ),
        (
            ["compile", "none.safetensors", "-o", "a.so"],
            "mlip-export compile: path: required a name ending in .pt2",
        ),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1
