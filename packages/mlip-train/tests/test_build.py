"""Frame tables: contents, cache, workers, bad frames."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from samples import CUTOFFS, table_of

from mlip_train.config import SourceConfig
from mlip_train.data.batches import collate
from mlip_train.data.build import build_table
from mlip_train.data.sources import DataError, read


def test_table_holds_what_the_file_says(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(5, periodic=True)
    table = table_of(frames, tmp_path)
    for i, atoms in enumerate(frames):
        atom = slice(table.atom_start[i], table.atom_start[i + 1])
        assert np.allclose(table.arrays["positions"][atom], atoms.positions, atol=1e-8)
        assert np.allclose(table.arrays["forces"][atom], atoms.get_forces(), atol=1e-8)
        assert [table.type_names[t] for t in table.arrays["types"][atom]] == atoms.get_chemical_symbols()
        assert table.arrays["energy"][i] == pytest.approx(atoms.get_potential_energy())
        assert np.allclose(table.arrays["stress"][i], atoms.get_stress(voigt=False), atol=1e-8)


def test_edges_are_ases(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    from ase.neighborlist import neighbor_list

    frames = make_frames(4, periodic=True)
    table = table_of(frames, tmp_path)
    for i, atoms in enumerate(ase.io.read(tmp_path / "frames.xyz", index=":")):
        batch = collate(table, np.array([i]))
        center, vectors = neighbor_list("iD", atoms, 4.0)
        assert batch.edge_vectors.shape == vectors.shape
        ours = batch.edge_vectors.numpy()
        for a in range(len(atoms)):
            mine, theirs = ours[batch.edge_index[0].numpy() == a], vectors[center == a]
            assert np.allclose(
                mine[np.lexsort(mine.T.round(6))], theirs[np.lexsort(theirs.T.round(6))], atol=1e-9
            )


def test_cache_is_found_again_and_follows_the_file(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(3)
    table_of(frames, tmp_path)
    (folder,) = (tmp_path / "cache").iterdir()
    stamp = (folder / "table.json").stat().st_mtime_ns
    build_table([SourceConfig(path=str(tmp_path / "frames.xyz"))], ["H", "O"], CUTOFFS, tmp_path / "cache")
    assert (folder / "table.json").stat().st_mtime_ns == stamp
    assert len(table_of(frames[:2], tmp_path)) == 2


def test_workers_write_the_same_table(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    source = SourceConfig(path=str(tmp_path / "frames.xyz"))
    ase.io.write(source.path, make_frames(70))
    a = build_table([source], ["H", "O"], CUTOFFS, tmp_path / "a")
    b = build_table([source], ["H", "O"], CUTOFFS, tmp_path / "b", workers=1)
    assert all(
        np.array_equal(a.arrays[k], b.arrays[k], equal_nan=a.arrays[k].dtype.kind == "f") for k in a.arrays
    )


def test_bad_frames_are_named(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(3)
    with pytest.raises(
        DataError, match=r"frames.xyz, frame 1.*elements of the model \['H', 'O'\].*got atomic number 18"
    ):
        table_of([frames[0], Atoms("Ar2", [[0, 0, 0], [0, 0, 2.0]])], tmp_path)
    single = Atoms("OH", [[0, 0, 0], [0, 0, 5.0]])
    with pytest.raises(
        DataError, match=r"frame 2: must have at least one neighbor within the cutoff of 4.0 Å"
    ):
        table_of([*frames[:2], single], tmp_path)
    assert table_of([*frames[:2], single], tmp_path, isolated="keep").edge_counts[2] == 0
    (tmp_path / "bad.xyz").write_text("2\nno properties line\nH 0 0\n")
    with pytest.raises(DataError, match=r"bad.xyz, frame 0 \(line 1\): must have 2 atoms and a comment line"):
        list(read(SourceConfig(path=str(tmp_path / "bad.xyz"))))
    with pytest.raises(FileNotFoundError, match=r"data must be an existing file"):
        list(read(SourceConfig(path=str(tmp_path / "none.xyz"))))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('energy="-1 -2"', "frame 0, key 'energy' must be one number, got 2"),
        ("energy=none", "frame 0, key 'energy' must be numeric, got 'none'"),
        (
            "energy=-1 config_weight=-5",
            "frame 0, key 'config_weight' must be at least 0, got -5.0",
        ),
        ("energy=-1", "frame 0, key 'positions' must keep atoms at least 0.001 Å apart, got atoms 0 and 1"),
        ('energy=-1 pbc="T T T"', "frame 0, cell must be linearly independent vectors along the periodic"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.xyz"
    path.write_text(f"2\nProperties=species:S:1:pos:R:3:forces:R:3 {line}\nO 0 0 0 0 0 0\nH 0 0 0 0 0 0\n")
    with pytest.raises(DataError, match=message):
        build_table([SourceConfig(path=str(path))], ["H", "O"], CUTOFFS, tmp_path / "cache")


def test_f6_a_damaged_cache_is_built_again(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    original = table_of(make_frames(4), tmp_path).arrays
    original = {name: np.array(array) for name, array in original.items()}
    (folder,) = (tmp_path / "cache").iterdir()
    source = SourceConfig(path=str(tmp_path / "frames.xyz"))
    for name, damage in (
        ("forces", lambda data: bytes(len(data))),
        ("positions", lambda data: data[:100]),
        ("table.json", lambda data: data[: len(data) // 2]),
        ("energy", None),
    ):
        path = folder / name
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage(path.read_bytes()))
        with pytest.warns(UserWarning, match=r"the cached frames are built again"):
            again = build_table([source], ["H", "O"], CUTOFFS, tmp_path / "cache")
        assert all(
            np.array_equal(again.arrays[k], original[k], equal_nan=original[k].dtype.kind == "f")
            for k in original
        )
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]


def test_f14_workers_without_a_main_guard_are_an_error(
    make_frames: Callable[..., Any], tmp_path: Path
) -> None:
    ase.io.write(tmp_path / "f.xyz", make_frames(3))
    script = Path(__file__).parent / "scripts" / "unguarded.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "f.xyz"), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 1
    assert "data.workers must be 0, or the script must start its training under if __name__" in done.stderr
