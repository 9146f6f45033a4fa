"""The command line: its output, and one line with exit status 2 for user errors."""

import dataclasses
import hashlib
import http.server
import json
import sys
import threading
from functools import partial

import ase.io
import pytest

import localgraph
from mlip_export import read_metadata
from mlip_export._describe import describe
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


def test_info_leaves_out_the_configuration_of_the_run(water_pt2):
    training = {"training": {"config": {"seed": 1}, "best": {"epoch": 3}, "elements": ["H"]}}
    text = describe(dataclasses.replace(read_metadata(water_pt2), training=training))
    assert [line for line in text.splitlines() if "training" in line] == ["training: best.epoch: 3"]


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


@pytest.fixture
def published(model_file, tmp_path, monkeypatch):
    """The name of the model file as an installed package publishes it, at a server that nobody reaches."""
    site, name = tmp_path / "site", "test.org:group/Water-S:0.1"
    info = site / "publisher-0.1.dist-info"
    info.mkdir(parents=True)
    row = {
        "file": model_file.name,
        "md5": hashlib.md5(model_file.read_bytes()).hexdigest(),
        "urls": ["http://127.0.0.1:9/model.safetensors"],
        "license": "CC-BY-4.0",
        "source": "https://doi.org/10.0/none",
    }
    (site / "publisher.py").write_text(f"def table():\n    return {{{name!r}: {row!r}}}\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: publisher\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[mlip.published]\ntest = publisher:table\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("MLIP_CACHE", str(tmp_path / "cache"))
    yield name
    sys.modules.pop("publisher", None)


def test_fetch(published, model_file, tmp_path, capsys):
    assert main(["fetch"]) == 0
    assert f"{published}\n    model.safetensors, license CC-BY-4.0" in capsys.readouterr().out
    assert main(["fetch", "test.org:group/other:2"]) == 2
    assert published in capsys.readouterr().err
    (tmp_path / "cache").mkdir()
    cached = tmp_path / "cache" / model_file.name
    cached.write_bytes(model_file.read_bytes())
    assert main(["fetch", published]) == 0
    assert capsys.readouterr().out == f"license CC-BY-4.0, https://doi.org/10.0/none\n{cached}\n"


@pytest.mark.slow
def test_compile_of_a_published_name(published, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        mirror = f"http://127.0.0.1:{server.server_port}"
        assert main(["fetch", published, "--mirror", mirror]) == 0
        server.shutdown()
        thread.join()
    assert main(["compile", published]) == 0
    assert (tmp_path / "Water-S-0.1.pt2").exists()
    assert "wrote Water-S-0.1.pt2" in capsys.readouterr().out
