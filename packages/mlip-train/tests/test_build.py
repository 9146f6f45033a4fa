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
import torch
from ase import Atoms
from samples import CUTOFFS, read, table_of

from mlip_train.config import SourceConfig
from mlip_train.data import columns, edges, first_pass
from mlip_train.data.batches import Batch, collate
from mlip_train.data.build import build_table
from spice_data import DataError


def test_table_holds_what_the_file_says(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(5, periodic=True)
    table = table_of(frames, tmp_path)
    batch = collate(table, np.arange(5))
    for i, atoms in enumerate(frames):
        atom = batch.frame == i
        assert np.allclose(batch.positions[atom], atoms.positions, atol=1e-8)
        assert np.allclose(batch.forces[atom], atoms.get_forces(), atol=1e-8)
        assert [table.type_names[t] for t in batch.types[atom]] == atoms.get_chemical_symbols()
        assert batch.energy[i] == table.arrays["energy"][i] == pytest.approx(atoms.get_potential_energy())
        assert np.allclose(batch.stress[i], atoms.get_stress(voigt=False), atol=1e-8)
        assert table.arrays["stress_max"][i] == batch.stress[i].abs().max()
        assert table.arrays["force_squares"][i] == pytest.approx((atoms.get_forces() ** 2).sum(), abs=1e-6)
        assert table.arrays["force_net"][i] < 1e-6
        assert table.arrays["composition"][i].tolist() == [(atoms.numbers == z).sum() for z in (1, 8)]


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


def folders(cache: Path) -> list[Path]:
    """Finished tables of a cache."""
    return [p for p in cache.iterdir() if p.is_dir()]


def test_cache_is_found_again_and_follows_the_file(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(3)
    table_of(frames, tmp_path)
    (folder,) = folders(tmp_path / "cache")
    stamp = (folder / "table.json").stat().st_mtime_ns
    build_table([SourceConfig(path=str(tmp_path / "frames.xyz"))], ["H", "O"], CUTOFFS, tmp_path / "cache")
    assert (folder / "table.json").stat().st_mtime_ns == stamp
    assert len(table_of(frames[:2], tmp_path)) == 2


def test_an_interrupted_pass_is_continued(
    make_frames: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = make_frames(50)
    monkeypatch.setattr(first_pass, "CHUNK", 5)
    monkeypatch.setattr(columns, "CHECKPOINT", 2)
    whole = {name: np.array(column) for name, column in table_of(frames, tmp_path / "a").arrays.items()}
    measured, original = [], first_pass._measured

    def interrupted(job: Any) -> Any:
        if len(measured) == 7:
            raise KeyboardInterrupt
        measured.append(job.rows)
        return original(job)

    monkeypatch.setattr(first_pass, "_measured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        table_of(frames, tmp_path / "b")
    monkeypatch.setattr(first_pass, "_measured", lambda job: (measured.append(job.rows), original(job))[1])
    again = table_of(frames, tmp_path / "b").arrays
    assert len(measured) == 7 + 10 - 6
    assert all(np.array_equal(again[k], whole[k], equal_nan=whole[k].dtype.kind == "f") for k in whole)


@pytest.mark.parametrize("keep_edges", [False, True])
def test_batches_of_several_sources_are_in_order(
    make_frames: Callable[..., Any], tmp_path: Path, keep_edges: bool
) -> None:
    frames = [*make_frames(6, periodic=True), *make_frames(6, seed=1)]
    names = ["a.xyz", "b.xyz"]
    for name, part in zip(names, (frames[:7], frames[7:]), strict=True):
        ase.io.write(tmp_path / name, part)
    sources = [SourceConfig(path=str(tmp_path / name)) for name in names]
    one = table_of(frames, tmp_path)
    table = build_table(sources, ["H", "O"], CUTOFFS, tmp_path / "cache", keep_edges=keep_edges)
    rows = np.array([8, 2, 11, 0, 7])
    for name, x, y in zip(Batch._fields, collate(table, rows), collate(one, rows), strict=True):
        assert torch.equal(x, y) or name == "subset"
    assert table.where(8).endswith("b.xyz, frame 1") and table.source_counts == [7, 5]


def test_atoms_of_large_batches_are_searched_in_groups(
    make_frames: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(make_frames(20, periodic=True), tmp_path)
    whole = collate(table, np.arange(20))
    monkeypatch.setattr(edges, "ATOMS", 10)
    assert all(torch.equal(x, y) for x, y in zip(whole, collate(table, np.arange(20)), strict=True))


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
        DataError,
        match=r"frames.xyz', frame 1.*elements of the model \['H', 'O'\].*got atomic number 18 \(model.add_elements",
    ):
        table_of([frames[0], Atoms("Ar2", [[0, 0, 0], [0, 0, 2.0]])], tmp_path)
    single = Atoms("OH", [[0, 0, 0], [0, 0, 5.0]])
    with pytest.raises(
        DataError, match=r"frame 2, positions must give at least one neighbor within the cutoff of 4.0 Å"
    ):
        table_of([*frames[:2], single], tmp_path)
    assert table_of([*frames[:2], single], tmp_path, isolated="keep").edge_counts[2] == 0
    (tmp_path / "bad.xyz").write_text("2\nno properties line\nH 0 0\n")
    with pytest.raises(DataError, match=r"bad.xyz', frame 0 \(line 1\) must have 2 atoms, got 1"):
        read(tmp_path / "bad.xyz")
    with pytest.raises(FileNotFoundError, match=r"data must be an existing file"):
        read(tmp_path / "none.xyz")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('energy="-1 -2"', r"frame 0, key 'energy' must have shape \(\), got \(2,\)"),
        ("energy=none", "frame 0, key 'energy' must be a number or an array of numbers, got 'none'"),
        (
            "energy=-1 config_weight=-5",
            "frame 0, key 'config_weight' must be a non-negative number, got -5.0",
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
    (folder,) = folders(tmp_path / "cache")
    source = SourceConfig(path=str(tmp_path / "frames.xyz"))
    for name, damage in (
        ("force_squares", lambda data: bytes(len(data))),
        ("composition", lambda data: data[:-1]),
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
    assert folders(tmp_path / "cache") == [folder]


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
    assert 'workers must be 0 unless the script runs under if __name__ == "__main__":' in done.stderr
