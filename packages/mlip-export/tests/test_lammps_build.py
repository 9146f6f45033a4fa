"""Building, finding and describing the LAMMPS plugin, and the lines of an input."""

import subprocess
import sysconfig
from pathlib import Path

import pytest
from ase.io.lammpsdata import write_lammps_data

import mlip_export
import mlip_export.lammps
from mlip_export._plugin import HINT, directory
from mlip_export.lammps import input_lines, status


def test_the_build_is_reused_and_the_entry_point_never_raises(plugin, monkeypatch):
    stamp = plugin.stat().st_mtime_ns
    assert mlip_export.lammps.build() == plugin and plugin.stat().st_mtime_ns == stamp
    assert directory() == str(plugin.parent)
    with (
        monkeypatch.context() as elsewhere
    ):  # the plugin of an environment that is gone would not find its torch
        elsewhere.setattr(mlip_export.lammps._build, "_place", lambda name: "/gone/torch")
        assert mlip_export.lammps.plugin_directory() != plugin.parent
    monkeypatch.setattr(mlip_export.lammps, "plugin_directory", lambda: 1 / 0)
    assert directory() == "/nonexistent/mlip-export-plugin"


def test_a_compiler_with_a_wrapper(plugin, monkeypatch, tmp_path):
    """CXX may hold several words, as ``ccache g++`` does."""
    monkeypatch.setenv("MLIP_EXPORT_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "env false")
    with pytest.raises(mlip_export.lammps.BuildError, match=r"compiling allegroplugin\.cpp failed"):
        mlip_export.lammps.build()


def test_a_build_without_a_compiler(plugin, monkeypatch, tmp_path):
    monkeypatch.setenv("MLIP_EXPORT_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(mlip_export.lammps.BuildError, match="compiler must be g"):
        mlip_export.lammps.build()
    assert not (mlip_export.lammps.plugin_directory() / mlip_export.lammps.PLUGIN).exists()


@pytest.mark.parametrize(
    "arguments, text, hinted",
    [
        (["-in", "in.allegro"], "pair_style allegro\n", True),
        (["-in", "in.lj"], "units lj\n", False),
        (["-help"], "", False),
    ],
)
def test_a_missing_plugin_is_hinted_at(monkeypatch, tmp_path, arguments, text, hinted):
    """F9: by ``lmp`` itself, where the input may need it."""
    monkeypatch.setenv("MLIP_EXPORT_CACHE", str(tmp_path / "empty"))
    if text:
        (tmp_path / arguments[-1]).write_text(text)
    lmp = Path(sysconfig.get_path("scripts")) / "lmp"
    done = subprocess.run([lmp, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (HINT in done.stderr) == hinted


def test_status(plugin, monkeypatch, tmp_path):
    """F9: what is there, and what is missing with the command that makes it."""
    assert f"plugin: {plugin}" in status() and "lammps 2" in status()
    monkeypatch.setenv("MLIP_EXPORT_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "plugin: not built, run 'mlip-export lammps build'" in status()
    assert "compiler: missing" in status()


@pytest.mark.parametrize("specorder", [["H", "O"], ["O", "H"]])
def test_input_lines_of_masses(water_pt2, make_water, tmp_path, specorder):
    """Elements by their masses."""
    write_lammps_data(tmp_path / "data", make_water(2), specorder=specorder, masses=True, atom_style="atomic")
    lines = input_lines(water_pt2, tmp_path / "data")
    masses = {"H": "1.008", "O": "15.999"}
    expected = [f"mass {k} {masses[e]}" for k, e in enumerate(specorder, 1)]
    assert lines.splitlines() == [
        *expected,
        "pair_style allegro",
        f"pair_coeff * * {water_pt2} {' '.join(specorder)}",
    ]


def test_input_lines_of_types_that_are_no_elements(water_pt2, changed, make_water, tmp_path):
    write_lammps_data(
        tmp_path / "data", make_water(1), specorder=["O", "H"], masses=True, atom_style="atomic"
    )
    named = changed(water_pt2, type_names='["Hw", "Ow"]', elements='["H", "O"]')
    assert input_lines(named, tmp_path / "data").endswith(f"pair_coeff * * {named} Ow Hw")


HEADER = "title\n\n3 atoms\n2 atom types\n\n"


@pytest.mark.parametrize(
    "text, elements, expected",
    [
        ("Masses\n\n1 16.0\n2 1.0\n\nAtoms # atomic\n\n1 1 0 0 0\n", None, "O H"),
        ("Masses\n\n1 40.0 # H\n2 41.0 # O\n", None, "H O"),
        ("Atom Type Labels\n\n1 O\n2 H\n\nMasses\n\nO 16.0\nH 1.0\n", None, "O H"),
        ("Masses\n\n1 16.0\n2 1.0\n", ["H", "H"], "H H"),
    ],
)
def test_input_lines_of_labels_comments_and_elements(water_pt2, tmp_path, text, elements, expected):
    (tmp_path / "data").write_text(HEADER + text)
    assert input_lines(water_pt2, tmp_path / "data", elements).endswith(f".pt2 {expected}")


@pytest.mark.parametrize(
    "text, elements, message",
    [
        (HEADER + "Masses\n\n1 16.0\n2 28.1\n", None, r"among \['H', 'O'\], got '28.1' for atom type 2 of"),
        (HEADER + "Atoms\n\n", None, r"got '\?' for atom type 1"),
        (HEADER, ["H"], "elements must be 2, one per atom type"),
        (HEADER, ["H", "Xe"], "got 'Xe' for atom type 2"),
        ("nothing\n", None, "data must be a LAMMPS data file with a line 'N atom types'"),
    ],
)
def test_input_lines_of_bad_data(water_pt2, tmp_path, text, elements, message):
    (tmp_path / "data").write_text(text)
    with pytest.raises(ValueError, match=message):
        input_lines(water_pt2, tmp_path / "data", elements)
