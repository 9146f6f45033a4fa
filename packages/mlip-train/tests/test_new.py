"""Suggested configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import pytest
from ase import Atoms

from mlip_train.cli import main
from mlip_train.config import load_config
from mlip_train.new import look_at

TOY = ["model.name=toy", "model.config={cutoff: 4.0}", "logging.progress=false"]


def written(capsys: Any, folder: Path) -> Any:
    assert main(["new", str(folder / "data.xyz"), "-o", str(folder / "run.yaml")]) == 0
    assert "next, mlip-train check" in capsys.readouterr().out
    return load_config(folder / "run.yaml")


def test_a_suggested_run_passes_its_check(toy: Any, make_frames: Any, tmp_path: Path, capsys: Any) -> None:
    frames = make_frames(30, periodic=True)
    ase.io.write(tmp_path / "data.xyz", frames)
    found = look_at(tmp_path / "data.xyz")
    assert (found.frames, found.periodic, found.isolated, found.whole) == (30, 30, 0, True)
    assert found.atoms == sum(map(len, frames))
    assert found.elements == {"H": 2 * found.elements["O"], "O": found.elements["O"]}
    assert found.keys == {
        "energy": {"energy": 30},
        "forces": {"forces": 30},
        "stress": {"stress": 30},
        "virial": {},
    }
    config = written(capsys, tmp_path)
    assert config.model.config["cutoff"] == 5.0
    assert config.data.train[0].path == str(tmp_path / "data.xyz")
    assert not config.data.partial_labels
    assert main(["check", str(tmp_path / "run.yaml"), *TOY, f"output={tmp_path / 'run'}"]) == 0
    assert main(["new", str(tmp_path / "data.xyz"), "-o", str(tmp_path / "run.yaml")]) == 2
    assert "output must be a file that does not exist" in capsys.readouterr().err


def test_keys_isolated_atoms_and_missing_labels_are_seen(
    toy: Any, make_frames: Any, tmp_path: Path, capsys: Any
) -> None:
    frames = make_frames(10)
    for atoms in frames:
        atoms.info["REF_energy"] = atoms.calc.results["energy"]
        atoms.arrays["dft_forces"] = atoms.calc.results["forces"]
        atoms.calc = None
    alone = [Atoms(name, info={"REF_energy": energy}) for name, energy in (("H", -9.0), ("O", -12.0))]
    ase.io.write(tmp_path / "data.xyz", [*frames, *alone])
    config = written(capsys, tmp_path)
    source = config.data.train[0]
    assert (source.energy, source.forces) == ("REF_energy", "dft_forces")
    assert config.statistics.energy_shifts == "isolated"
    assert not config.data.partial_labels  # forces of single atoms are zero
    assert main(["check", str(tmp_path / "run.yaml"), *TOY, f"output={tmp_path / 'run'}"]) == 0

    (tmp_path / "run.yaml").unlink()
    del frames[3].info["REF_energy"]
    ase.io.write(tmp_path / "data.xyz", frames)
    assert written(capsys, tmp_path).data.partial_labels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "data must be an existing file"),
        ("", "data must hold at least one structure, got none"),
        ("text", "must begin with a number of atoms"),
    ],
)
def test_files_without_structures(tmp_path: Path, capsys: Any, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "data.xyz").write_text(text)
    assert main(["new", str(tmp_path / "data.xyz"), "-o", str(tmp_path / "run.yaml")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run.yaml").exists()
