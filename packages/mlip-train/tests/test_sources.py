"""Frames of sources: labels, units, selections."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from samples import CUTOFFS, read, table_of

from mlip_train import build_table, from_plain
from mlip_train.config import DataConfig, SourceConfig
from mlip_train.data.sources import open_sources
from spice_data import DataError, convert, example_path


@pytest.mark.parametrize(
    ("path", "option", "message"),
    [
        (
            "f.xyz",
            {"split": "s.json", "part": "test"},
            r"source.split must be used with a .store, got 's.json'",
        ),
        ("f.hdf5", {"split": "s.json", "part": "test"}, "source.split must be used with a .store"),
        (
            "f.hdf5",
            {"energy_scale": 2.0},
            "source.energy_scale must be used with a file that ASE reads, got 2.0",
        ),
        ("f.store", {"forces": "F"}, "source.forces must be used with a file that ASE reads, got 'F'"),
        ("f.store", {"part": "test"}, "source.split, source.part must be given together"),
        ("f.xyz", {"weight": -1.0}, "source.weight must be at least 0, got -1.0"),
    ],
)
def test_options_that_do_not_apply(path: str, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_sources([SourceConfig(path=path, **option)], "cache")


def one_frame(path: Path, comment: str, **options: Any) -> Any:
    """Frame of two atoms in a cell of 4 Å with this text in its comment line."""
    path.write_text(
        f'2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3 {comment}\n'
        "O 0 0 0 1 2 3\nH 0 0 1 -1 -2 -3\n"
    )
    (frame,) = read(path, **options)
    return frame


@pytest.mark.parametrize("gap", ["\n", "\n\n\n", "  \n"])
def test_f1_blank_lines_between_frames_are_skipped(
    make_frames: Callable[..., Any], tmp_path: Path, gap: str
) -> None:
    frames = make_frames(5)
    path = tmp_path / "f.xyz"
    texts = []
    for atoms in frames:
        ase.io.write(path, atoms)
        texts.append(path.read_text())
    path.write_text(gap + texts[0] + texts[1] + gap + gap.join(texts[2:]) + gap)
    found = read(path)
    assert len(found) == 5
    assert all(np.array_equal(f.positions, a.positions.round(8)) for f, a in zip(found, frames, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], r"frame 1 \(line 6\) must have 3 atoms, got 2 lines"),
        (
            lambda lines: [*lines[:5], "text", *lines[5:]],
            r"frame 1 \(line 6\) must begin with a number of atoms, got 'text'",
        ),
        (lambda lines: [*lines, "3"], r"frame 2 \(line 11\) must have 3 atoms"),
        (lambda lines: [*lines[:4], "H 0 0", *lines[5:]], r"frame 0 \(line 1\) must be readable by ASE"),
    ],
)
def test_f1_what_is_no_frame_is_an_error_with_its_line(tmp_path: Path, change: Any, message: str) -> None:
    lines = ["3", "Properties=species:S:1:pos:R:3", "O 0 0 0", "H 0 0 1", "H 0 1 0"] * 2
    path = tmp_path / "f.xyz"
    path.write_text("\n".join(lines) + "\n")
    assert len(read(path)) == 2
    path.write_text("\n".join(change(lines)) + "\n")
    with pytest.raises(DataError, match=message):
        read(path)


def test_cell_vectors_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "f.xyz"
    one = "1\nvectors\nH 0 0 0\nVEC1 5 0 0\nVEC2 0 6 0\nVEC3 0 0 7\n"
    path.write_text(one + "\n" + one)
    frames = read(path)
    assert [np.diag(f.cell).tolist() for f in frames] == [[5, 6, 7]] * 2


@pytest.mark.parametrize("key", ["energy", "forces"])
def test_f17_labels_that_are_nan_throughout_are_absent(
    make_frames: Callable[..., Any], tmp_path: Path, key: str
) -> None:
    frames = make_frames(3)
    results = frames[2].calc.results
    results[key] = np.full_like(results[key], np.nan)
    ase.io.write(tmp_path / "nan.xyz", frames)
    found = read(tmp_path / "nan.xyz")
    assert np.isnan(getattr(found[2], key)).all()
    assert np.isfinite(getattr(found[1], key)).all()


def test_one_nan_among_numbers_is_an_error(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(3)
    frames[2].calc.results["forces"][1] = np.nan
    ase.io.write(tmp_path / "nan.xyz", frames)
    with pytest.raises(DataError, match=r"nan.xyz', frame 2, key 'forces' must be finite, got NaN"):
        read(tmp_path / "nan.xyz")


def test_f18_forces_of_one_atom_are_zero(tmp_path: Path) -> None:
    path = tmp_path / "iso.xyz"
    path.write_text('1\nProperties=species:S:1:pos:R:3 energy=-0.5 pbc="F F F"\nH 0 0 0\n')
    (frame,) = read(path)
    assert frame.forces.tolist() == [[0.0, 0.0, 0.0]]
    (frame,) = read(path, forces=None)
    assert np.isnan(frame.forces).all()


@pytest.mark.parametrize("key", ["stress", "virial", "REF_stress"])
@pytest.mark.parametrize("form", ['"{}"', "[{}]", "{{{}}}"])
def test_f19_six_components_are_voigt(tmp_path: Path, key: str, form: str) -> None:
    six = form.format("0.1, 0.2, 0.3, 0.4, 0.5, 0.6" if form[0] == "[" else "0.1 0.2 0.3 0.4 0.5 0.6")
    options = {"stress": key} if key == "REF_stress" else {}
    frame = one_frame(tmp_path / "v.xyz", f"energy=-1 {key}={six}", **options)
    expected = np.array([[0.1, 0.6, 0.5], [0.6, 0.2, 0.4], [0.5, 0.4, 0.3]])
    assert np.allclose(frame.stress, -expected / 64.0 if key == "virial" else expected)


def test_f11_contradicting_stress_and_virial_are_an_error(tmp_path: Path) -> None:
    path, stress = tmp_path / "f.xyz", 'stress="0.1 0 0 0 0.2 0 0 0 0.3"'
    agree = 'virial="-6.4 0 0 0 -12.8 0 0 0 -19.2"'
    assert np.allclose(one_frame(path, f"{stress} {agree}").stress, np.diag([0.1, 0.2, 0.3]))
    wrong = 'virial="6.4 0 0 0 12.8 0 0 0 19.2"'
    with pytest.raises(DataError, match=r"frame 0, keys 'stress' and 'virial' must agree"):
        one_frame(path, f"{stress} {wrong}")
    assert np.allclose(one_frame(path, f"{stress} {wrong}", stress=None).stress, -np.diag([0.1, 0.2, 0.3]))


def test_f11_stresses_have_a_scale(tmp_path: Path) -> None:
    frame = one_frame(
        tmp_path / "f.xyz", 'kbar="16 0 0 0 16 0 0 0 16"', stress="kbar", stress_scale=6.241509e-4
    )
    assert np.allclose(frame.stress, 16 * 6.241509e-4 * np.eye(3))


def test_virial_is_minus_volume_times_stress(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    atoms = make_frames(1, periodic=True)[0]
    stress = atoms.get_stress(voigt=False)
    atoms.info["w"] = -stress * atoms.get_volume()
    del atoms.calc.results["stress"]
    ase.io.write(tmp_path / "w.xyz", atoms)
    (frame,) = read(tmp_path / "w.xyz", virial="w")
    assert np.allclose(frame.stress, stress, atol=1e-8)


def test_take_and_shuffle(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    ase.io.write(tmp_path / "f.xyz", make_frames(10))

    def indices(**options: Any) -> list[int]:
        config = SourceConfig(path=str(tmp_path / "f.xyz"), **options)
        return open_sources([config], tmp_path / "cache")[0].rows.tolist()  # type: ignore[no-any-return]

    assert indices(take="2:5") == [2, 3, 4]
    a, b = indices(shuffle=1, take=":6"), indices(shuffle=1, take="6:")
    assert sorted(a + b) == list(range(10))
    assert a != list(range(6))
    with pytest.raises(ValueError, match=r"take must be a slice"):
        indices(take="half")


@pytest.mark.parametrize("real", [False, True], ids=["example", "real"])
def test_spice_files_and_stores_are_read_alike(
    request: pytest.FixtureRequest, tmp_path: Path, real: bool
) -> None:
    path, store = tmp_path / "e.hdf5", tmp_path / "e.store"
    file = request.getfixturevalue("shared_data") / "spice" / "real_spice_1.1.4_slice.hdf5" if real else None
    path.symlink_to(file or example_path())
    convert(path, store).close()
    whole = read(path)
    assert all(np.isfinite(f.forces).all() and np.isfinite(f.energy) and not f.pbc.any() for f in whole)
    names = sorted({f.subset for f in whole})
    assert not read(path, exclude=tuple(names))
    for options in ({"charge": 0}, {"exclude": (names[0],), "shuffle": 3, "take": ":5"}):
        a, b = read(path, **options), read(store, **options)
        assert [(f.name, f.source_frame) for f in a] == [(f.name, f.source_frame) for f in b]
        assert all(np.array_equal(x.positions, y.positions) for x, y in zip(a, b, strict=True))
    assert len(a) == min(5, sum(f.subset != names[0] for f in whole))


def test_subsets_of_extended_xyz_are_config_types(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(6)
    for i, atoms in enumerate(frames[:4]):
        atoms.info["config_type"] = "bulk" if i % 2 else "slab"
    ase.io.write(tmp_path / "f.xyz", frames)
    assert [f.subset for f in read(tmp_path / "f.xyz")] == ["slab", "bulk", "slab", "bulk", "f", "f"]
    assert [f.subset for f in read(tmp_path / "f.xyz", exclude=("slab",))] == ["bulk", "bulk", "f", "f"]


def test_f11_units_are_named_or_given_as_factors(tmp_path: Path) -> None:
    text = 'energy=-1 stress="16 0 0 0 16 0 0 0 16"'
    named = one_frame(
        tmp_path / "f.xyz",
        text,
        energy_unit="hartree",
        length_unit="bohr",
        stress_unit="GPa",
        force_scale=-1.0,
    )
    hartree, bohr = 27.211386245988, 0.529177210903
    assert named.energy == pytest.approx(-hartree)
    assert np.allclose(named.positions[1], [0, 0, bohr]) and np.allclose(named.cell, 4 * bohr * np.eye(3))
    assert np.allclose(named.forces[0], -hartree / bohr * np.array([1, 2, 3]))
    assert np.allclose(named.stress, 16 / 160.2176634 * np.eye(3))
    scaled = one_frame(tmp_path / "f.xyz", text, length_scale=2.0, energy_scale=3.0)
    assert scaled.energy == -3.0 and scaled.cell[0, 0] == 8.0 and scaled.forces[0, 0] == 1.0


def test_a_changed_file_is_converted_again_and_a_damaged_store_too(
    make_frames: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "f.xyz"
    ase.io.write(path, make_frames(5))
    assert len(read(path)) == 5
    (store,) = (tmp_path / "cache").glob("*.store")
    stamp = store.stat().st_mtime_ns
    assert len(read(path)) == 5 and store.stat().st_mtime_ns == stamp
    ase.io.write(path, make_frames(7))
    assert len(read(path)) == 7
    data = bytearray(store.read_bytes())
    at = data.find(np.float64(read(path)[3].forces[0, 0]).tobytes())
    data[at : at + 8] = bytes(8)
    store.write_bytes(data)
    with pytest.warns(UserWarning, match=r"the cached frames are built again"):
        assert read(path)[3].forces[0, 0] != 0.0


def test_folders_patterns_and_npz(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(9)
    folder = tmp_path / "runs"
    folder.mkdir()
    for k in range(3):
        ase.io.write(folder / f"{k}.xyz", frames[3 * k : 3 * k + 3])
    for path in (folder, folder / "*.xyz", tmp_path / "**" / "?.xyz"):
        (source,) = open_sources([SourceConfig(path=str(path))], tmp_path / "cache")
        found = [source.store[i] for i in range(9)]
        assert all(np.allclose(f.positions, a.positions) for f, a in zip(found, frames, strict=True))
        assert source.where(4) == (str(folder / "1.xyz"), "frame 1")
    with pytest.raises(FileNotFoundError, match=r"data must be an existing file, got .*\?.cif"):
        open_sources([SourceConfig(path=str(folder / "?.cif"))], tmp_path / "cache")
    for name in ("a.store", "b.store"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"path must name one SPICE file or store"):
        open_sources([SourceConfig(path=str(tmp_path / "*.store"))], tmp_path / "cache")
    same = [a for a in frames if len(a) == len(frames[0])]
    np.savez(
        tmp_path / "a.npz",
        R=[a.positions for a in same],
        z=frames[0].numbers,
        E=[a.get_potential_energy() for a in same],
        F=[a.get_forces() for a in same],
    )
    found = read(tmp_path / "a.npz", energy="E", forces="F")
    assert [f.energy for f in found] == [a.get_potential_energy() for a in same]


def test_format_is_ases_name(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(3)
    ase.io.write(tmp_path / "frames.dat", frames, format="extxyz")
    assert len(read(tmp_path / "frames.dat", format="extxyz")) == 3
    with pytest.raises(ValueError, match=r"source.format must be used with a file that ASE reads"):
        read(tmp_path / "a.store", format="extxyz")


def test_ase_databases_have_labels_in_key_value_pairs(
    make_frames: Callable[..., Any], tmp_path: Path
) -> None:
    from ase.db import connect

    frames = make_frames(3)
    with connect(tmp_path / "a.db") as database:
        for atoms in frames:
            bare = atoms.copy()
            database.write(bare, ref=atoms.get_potential_energy(), data={"f": atoms.get_forces()})
    found = read(tmp_path / "a.db", energy="ref", forces="f")
    assert [f.energy for f in found] == [a.get_potential_energy() for a in frames]
    assert all(np.array_equal(f.forces, a.get_forces()) for f, a in zip(found, frames, strict=True))


def test_weights_of_subsets(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(4)
    for i, atoms in enumerate(frames):
        atoms.info["config_type"] = "bulk" if i % 2 else "slab"
    table = table_of(frames, tmp_path)
    assert table.arrays["weight"].tolist() == [1, 1, 1, 1]
    config = SourceConfig(path=str(tmp_path / "frames.xyz"), weight=2.0, weights={"slab": 0.25})
    table = build_table([config], ["H", "O"], CUTOFFS, tmp_path / "cache")
    assert table.arrays["weight"].tolist() == [0.5, 2, 0.5, 2]
    with pytest.raises(
        ValueError, match=r"source.weights must name subsets .* which are \['slab', 'bulk'\], got"
    ):
        read(tmp_path / "frames.xyz", weights={"slap": 1.0})
    with pytest.raises(ValueError, match=r"source.weights.slab must be at least 0, got -1"):
        read(tmp_path / "frames.xyz", weights={"slab": -1.0})


def test_sources_may_be_plain_strings() -> None:
    data = from_plain(DataConfig, {"train": ["a.xyz", {"path": "b.xyz", "share": 0.5}]}, "data")
    assert data.train == (SourceConfig(path="a.xyz"), SourceConfig(path="b.xyz", share=0.5))


def lmdb_of(path: Path, entries: dict[str, bytes]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with (
        lmdb.open(str(path), map_size=1 << 20, subdir=False) as environment,
        environment.begin(write=True) as to,
    ):
        for key, data in entries.items():
            to.put(key.encode(), data)
    return path


def test_lmdb_files_of_nequip(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = [*make_frames(2, periodic=True), *make_frames(1)]
    entries = {"num_frames": b"3"}
    for i, atoms in enumerate(frames):
        data = {
            "pos": torch.tensor(atoms.positions),
            "atomic_numbers": torch.tensor(atoms.numbers),
            "cell": torch.tensor(atoms.cell.array)[None],
            "pbc": torch.tensor(atoms.pbc)[None],
            "total_energy": torch.tensor([[atoms.get_potential_energy()]], dtype=torch.float64),
            "forces": torch.tensor(atoms.get_forces()),
            "edge_index": torch.zeros(2, len(atoms), dtype=torch.int64),
        }
        if atoms.pbc.all():
            data["stress"] = torch.tensor(atoms.get_stress(voigt=False))[None]
        entries[str(i)] = pickle.dumps(data)
    found = read(lmdb_of(tmp_path / "a.lmdb", entries), energy="total_energy")
    for frame, atoms in zip(found, frames, strict=True):
        assert np.array_equal(frame.positions, atoms.positions) and np.array_equal(frame.pbc, atoms.pbc)
        assert frame.energy == atoms.get_potential_energy() and np.array_equal(
            frame.forces, atoms.get_forces()
        )
        assert not atoms.pbc.all() or np.allclose(frame.stress, atoms.get_stress(voigt=False))


class Command:
    """What a pickle could run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"0": pickle.dumps({"pos": Command()})},
            r"frame 0 must have entries of tensors, got .*posix.system",
        ),
        (
            {"0": pickle.dumps({"pos": 1})},
            r"frame 0 must have entries of tensors, got KeyError: 'atomic_numbers'",
        ),
        ({"a": b"text"}, r"must have entries by number, as nequip writes them, got none"),
    ],
)
def test_other_lmdb_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: dict[str, bytes], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        read(lmdb_of(tmp_path / "a.lmdb", entries))
    assert not Path("ran").exists()
