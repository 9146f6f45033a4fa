"""The command line: its output, and one line with exit status 2 for user errors."""

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


def test_info(water_pt2, capsys):
    assert main(["info", str(water_pt2)]) == 0
    assert "elements: H O" in capsys.readouterr().out
    assert main(["info", "--json", str(water_pt2)]) == 0
    assert json.loads(capsys.readouterr().out)["type_names"] == ["H", "O"]


def test_check(water_pt2, model_file, water_model, toy, tmp_path, capsys):
    assert main(["check", str(water_pt2)]) == 0
    assert "runs here on 7 graphs" in capsys.readouterr().out
    assert main(["check", str(water_pt2), "--model", str(model_file)]) == 0
    assert "agrees with" in capsys.readouterr().out
    other = tmp_path / "other.safetensors"
    localgraph.save_model(other, toy(("H", "O"), 3.5, cutoffs=[[2.5, 3.5], [3.5, 3.5]], seed=5))
    assert main(["check", str(water_pt2), "--model", str(other)]) == 2
    assert "checksums differ" in capsys.readouterr().err


def test_bench(water_pt2, make_water, tmp_path, capsys):
    ase.io.write(tmp_path / "water.xyz", make_water(2))
    assert (
        main(["bench", str(water_pt2), str(tmp_path / "water.xyz"), "--repeats", "2", "--threads", "1"]) == 0
    )
    out = capsys.readouterr().out
    assert out.startswith("24 atoms, ") and "1 thread(s): " in out and "peak memory" in out


def test_bench_of_a_file_that_is_no_structure(water_pt2, tmp_path, capsys):
    (tmp_path / "s.foo").write_text("a\n")
    assert main(["bench", str(water_pt2), str(tmp_path / "s.foo")]) == 2
    error = capsys.readouterr().err
    assert "structure must be a file that ASE reads" in error and error.count("\n") == 1


def test_lammps_paths(plugin, capsys):
    assert main(["lammps", "path"]) == 0
    assert capsys.readouterr().out.strip() == str(plugin.parent)
    assert main(["lammps", "build"]) == 0
    assert capsys.readouterr().out.strip() == str(plugin)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["info", "none.pt2"], "mlip-export info: path must be an existing .pt2 file"),
        (
            ["compile", "none.safetensors", "-o", "a.pt2"],
            "mlip-export compile: path must be an existing",
        ),
        (
            ["compile", "none.safetensors", "-o", "a.so"],
            "mlip-export compile: path must be a name ending in .pt2",
        ),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1
