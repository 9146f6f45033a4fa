"""Frames, tables, statistics and batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_train import TrainConfig, from_plain
from mlip_train.config import BatchConfig, SourceConfig, StatisticsConfig
from mlip_train.config.checks import check_values
from mlip_train.data import sources as frames
from mlip_train.data.batches import collate
from mlip_train.data.build import build_table
from mlip_train.data.frames import FrameTable
from mlip_train.data.loader import BatchLoader
from mlip_train.data.plan import plan
from mlip_train.data.sources import DataError, read
from mlip_train.data.statistics import gather_statistics
from mlip_train.training.prepare import prepare

CUTOFFS = torch.full((2, 2), 4.0, dtype=torch.float64)


def table_of(frames: list[Atoms], folder: Path, **options: Any) -> FrameTable:
    path = folder / "frames.xyz"
    ase.io.write(path, frames)
    return build_table([SourceConfig(path=str(path))], ["H", "O"], CUTOFFS, folder / "cache", **options)


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
    lone = Atoms("OH", [[0, 0, 0], [0, 0, 5.0]])
    with pytest.raises(
        DataError, match=r"frame 2: must have at least one neighbor within the cutoff of 4.0 Å"
    ):
        table_of([*frames[:2], lone], tmp_path)
    assert table_of([*frames[:2], lone], tmp_path, isolated="keep").edge_counts[2] == 0
    (tmp_path / "bad.xyz").write_text("2\nno properties line\nH 0 0\n")
    with pytest.raises(DataError, match=r"bad.xyz must be readable by ASE"):
        list(read(SourceConfig(path=str(tmp_path / "bad.xyz"))))
    with pytest.raises(FileNotFoundError, match=r"data must be an existing file"):
        list(read(SourceConfig(path=str(tmp_path / "none.xyz"))))


@pytest.mark.parametrize(
    ("path", "option", "message"),
    [
        (
            "f.xyz",
            {"split": "s.json", "part": "test"},
            r"source.split must be used with a .store, got 's.json'",
        ),
        ("f.xyz", {"charge": 0}, "source.charge must be used with a SPICE file or a .store, got 0 for"),
        ("f.xyz", {"exclude": ("f",)}, "source.exclude must be used with a SPICE file"),
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
        list(read(SourceConfig(path=path, **option)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": {"train": [{"path": "a.xyz", "charge": 0}]}},
            r"data.train\[0\].charge must be used with a SPICE",
        ),
        ({"batch": {"frames": 4, "accumulate": 0}}, "batch.accumulate must be at least 1, got 0"),
        ({"stop": {"epochs": 0}}, "stop.epochs must be at least 1, got 0"),
        ({"loss": {"forces": -1.0}}, "loss.forces must be at least 0, got -1.0"),
        ({"stages": [{"epoch": 1, "energy": -2.0}]}, r"stages\[0\].energy must be at least 0"),
        ({"stop": {"lr": 1e-7}}, "stop.lr must be at least schedule.minimum"),
    ],
)
def test_values_out_of_range(plain_run: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_values(from_plain(TrainConfig, plain_run | changes))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('energy="-1 -2"', "frame 0, key 'energy' must be one number, got 2"),
        ("energy=none", "frame 0, key 'energy' must be numeric, got 'none'"),
        (
            "energy=-1 config_weight=-5",
            "frame 0, key 'config_weight' must be a non-negative number",
        ),
        ("energy=-1", "frame 0, key 'positions' must keep atoms at least 0.001 Å apart, got atoms 0 and 1"),
        ('energy=-1 pbc="T T T"', "frame 0, cell: required linearly independent vectors along the periodic"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.xyz"
    path.write_text(f"2\nProperties=species:S:1:pos:R:3:forces:R:3 {line}\nO 0 0 0 0 0 0\nH 0 0 0 0 0 0\n")
    with pytest.raises(DataError, match=message):
        build_table([SourceConfig(path=str(path))], ["H", "O"], CUTOFFS, tmp_path / "cache")


@pytest.mark.parametrize("key", ["energy", "forces"])
def test_nan_labels_are_named(make_frames: Callable[..., Any], tmp_path: Path, key: str) -> None:
    frames = make_frames(3)
    results = frames[2].calc.results
    results[key] = np.nan if key == "energy" else np.where(np.arange(3) == 1, np.nan, results["forces"])
    ase.io.write(tmp_path / "nan.xyz", frames)
    with pytest.raises(DataError, match=rf"nan.xyz, frame 2, key '{key}' must be finite"):
        list(read(SourceConfig(path=str(tmp_path / "nan.xyz"))))


def test_virial_is_minus_volume_times_stress(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    atoms = make_frames(1, periodic=True)[0]
    stress = atoms.get_stress(voigt=False)
    atoms.info["w"] = -stress * atoms.get_volume()
    del atoms.calc.results["stress"]
    ase.io.write(tmp_path / "w.xyz", atoms)
    (frame,) = read(SourceConfig(path=str(tmp_path / "w.xyz"), virial="w"))
    assert np.allclose(frame.stress, stress, atol=1e-8)


def test_take_and_shuffle(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    ase.io.write(tmp_path / "f.xyz", make_frames(10))

    def indices(**options: Any) -> list[int]:
        return [f.number for f in read(SourceConfig(path=str(tmp_path / "f.xyz"), **options))]

    assert indices(take="2:5") == [2, 3, 4]
    a, b = indices(shuffle=1, take=":6"), indices(shuffle=1, take="6:")
    assert sorted(a + b) == list(range(10))
    assert a != list(range(6))
    with pytest.raises(ValueError, match=r"take must be a slice"):
        indices(take="half")


def test_statistics(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(30)
    table = table_of(frames, tmp_path)
    s = gather_statistics(table, StatisticsConfig())
    counts = np.array([[(a.numbers == 1).sum(), (a.numbers == 8).sum()] for a in frames], float)
    n, e = counts.sum(1), np.array([a.get_potential_energy() for a in frames])
    assert s.avg_num_neighbors == pytest.approx(table.edge_counts.sum() / n.sum())
    f = np.concatenate([a.get_forces() for a in frames])
    assert s.force_rms == pytest.approx(np.sqrt((f**2).mean()), rel=1e-6)
    ridged = gather_statistics(table, StatisticsConfig(ridge=0.5)).energy_shifts
    x, mean = counts / n[:, None], (e / n).mean()
    expected = mean + np.linalg.solve(x.T @ x + 0.5 * np.eye(2), x.T @ (e / n - mean * x.sum(1)))
    assert np.allclose(ridged, expected, atol=1e-6)


def test_statistics_when_composition_is_constant_or_isolated(
    make_frames: Callable[..., Any], tmp_path: Path
) -> None:
    same = [a for a in make_frames(20) if len(a) == 3]
    s = gather_statistics(table_of(same, tmp_path), StatisticsConfig())
    assert np.isfinite(s.energy_shifts).all()
    energies = np.array([a.get_potential_energy() for a in same])
    assert abs(s.energy_shifts @ [2, 1] - energies.mean()) < 1e-3 * abs(energies.mean())
    with pytest.raises(
        DataError, match=r"one atom without neighbors for every element, got none of \['H', 'O'\]"
    ):
        gather_statistics(table_of(same, tmp_path), StatisticsConfig(energy_shifts="isolated"))


@pytest.mark.parametrize(
    "budget", [{"frames": 4}, {"atoms": 20}, {"edges": 120}, {"frames": 5, "edges": 150}]
)
def test_plan_respects_budgets_and_is_a_partition(budget: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    atoms, edges = rng.integers(3, 10, 101), rng.integers(6, 72, 101)
    batches = plan(atoms, edges, BatchConfig(**budget), np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(101))
    sizes = {"frames": np.ones(101, int), "atoms": atoms, "edges": edges}
    for name, limit in budget.items():
        assert max(int(sizes[name][b].sum()) for b in batches) <= limit
    assert [b.tolist() for b in plan(atoms, edges, BatchConfig(**budget), np.random.default_rng(1))] == [
        b.tolist() for b in batches
    ]


def test_buckets_make_batches_alike() -> None:
    rng = np.random.default_rng(0)
    edges = rng.integers(10, 1000, 400)

    def spread(buckets: int) -> float:
        plans = plan(edges // 10, edges, BatchConfig(frames=8, buckets=buckets), np.random.default_rng(1))
        return float(np.mean([edges[b].std() for b in plans]))

    assert spread(16) < 0.5 * spread(0)


def test_budget_errors_name_the_frame(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    table = table_of(make_frames(6), tmp_path)
    with pytest.raises(DataError, match=r"batch.edges must hold the largest frame.*frames.xyz, frame"):
        BatchLoader(table, np.arange(6), BatchConfig(edges=2))
    with pytest.raises(DataError, match=r"batch must set at least one of frames, atoms or edges"):
        BatchLoader(table, np.arange(6), BatchConfig())


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (3, 1), (1, 3), (2, 2)])
def test_processes_share_an_epoch(
    make_frames: Callable[..., Any], tmp_path: Path, world: int, accumulate: int
) -> None:
    table = table_of(make_frames(23), tmp_path)
    config = BatchConfig(frames=2, accumulate=accumulate)
    loaders = [
        BatchLoader(table, np.arange(23), config, seed=5, rank=r, world=world, prefetch=r)
        for r in range(world)
    ]
    parts = [list(loader) for loader in loaders]
    assert {len(p) for p in parts} == {len(loaders[0])}
    assert len(loaders[0]) % accumulate == 0
    rows = np.concatenate([b.row.numpy() for p in parts for b in p])
    assert sorted(rows[rows >= 0].tolist()) == list(range(23))
    for step in range(0, len(loaders[0]), accumulate):
        together = [b for p in parts for b in p[step : step + accumulate]]
        sums = sum(
            torch.stack([b.energy_weight.sum(), 3 * b.force_weight.sum(), 9 * b.stress_weight.sum()])
            for b in together
        )
        assert all(torch.allclose(b.norms, sums) for b in together)


def test_loader_continues_where_it_was(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    table = table_of(make_frames(17), tmp_path)
    loader = BatchLoader(table, np.arange(17), BatchConfig(frames=2), seed=3, epoch=2)
    whole = [b.row.tolist() for b in loader]
    loader.consumed = 4
    again = BatchLoader(table, np.arange(17), BatchConfig(frames=2), seed=3, epoch=2)
    again.load_state_dict(loader.state_dict())
    assert [b.row.tolist() for b in again] == whole[4:]
    assert (len(again), again.total) == (len(whole) - 4, len(whole))
    other = BatchLoader(table, np.arange(17), BatchConfig(frames=2), seed=3, epoch=3)
    other.load_state_dict(loader.state_dict())
    assert len(list(other)) == len(other) == other.total


def test_prefetch_hands_errors_over(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    table = table_of(make_frames(4), tmp_path)
    loader = BatchLoader(table, np.arange(4), BatchConfig(frames=2), prefetch=1)
    loader.batches[1] = np.array([99])
    with pytest.raises(IndexError):
        list(loader)


def test_spice_files(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("spice_data")
    source = SourceConfig(path=str(shared_data / "spice" / "real_spice_1.1.4_slice.hdf5"), take=":4")
    frames = list(read(source))
    assert len(frames) == 4
    assert all(f.subset.startswith("SPICE") and np.isfinite(f.forces).all() for f in frames)
    assert not list(
        read(
            SourceConfig(
                path=source.path, exclude=tuple({f.subset for f in read(SourceConfig(path=source.path))})
            )
        )
    )


def test_spice_files_and_stores_are_read_alike(tmp_path: Path) -> None:
    spice_data = pytest.importorskip("spice_data")
    source, store = spice_data.example_path(), tmp_path / "e.store"
    spice_data.convert(source, str(store)).close()

    def frames_of(path: Any, **options: Any) -> list[Any]:
        return list(read(SourceConfig(path=str(path), **options)))

    whole = frames_of(source)
    assert [f.number for f in whole] == list(range(len(whole)))
    names = sorted({f.subset for f in whole})
    for options in ({"charge": 0}, {"charge": 1}, {"exclude": (names[0],), "shuffle": 3, "take": ":5"}):
        a, b = frames_of(source, **options), frames_of(store, **options)
        assert len(a) == len(b) and len(a) < len(whole)
        for x, y in zip(a, b, strict=True):
            assert np.array_equal(x.positions, whole[x.number].positions)
            assert np.allclose(x.positions, y.positions, atol=1e-5) and x.subset == y.subset
            assert x.energy == pytest.approx(y.energy)
    assert len(a) == min(5, sum(f.subset != names[0] for f in whole))


def test_frames_of_one_atom(
    toy: Any, plain_run: dict[str, Any], make_frames: Callable[..., Any], tmp_path: Path
) -> None:
    lone = [Atoms("H", [[0, 0, 0]]), Atoms("O", [[0, 0, 0]])]
    dense = Atoms("H", cell=[2.0, 2.0, 2.0], pbc=True)
    for atoms, energy in zip([*lone, dense], (-8.5, -11.5, -3.0), strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((1, 3)))
    ase.io.write(tmp_path / "lone.xyz", [*lone, *make_frames(6), dense])
    data = {"train": [{"path": str(tmp_path / "lone.xyz")}], "validation_fraction": 0.5, "isolated": "keep"}
    plain = plain_run | {"data": data, "statistics": {"energy_shifts": "isolated"}}
    for seed in range(8):
        prepared = prepare(from_plain(TrainConfig, plain | {"seed": seed}))
        assert prepared.statistics.energy_shifts.tolist() == [-8.5, -11.5]
        assert {0, 1} <= set(prepared.train.rows.tolist())


def test_sources_without_frames_and_test_frames_above_the_budget(
    toy: Any, plain_run: dict[str, Any], make_frames: Callable[..., Any], tmp_path: Path
) -> None:
    source = plain_run["data"]["train"][0]
    with pytest.raises(DataError, match=r"data must contain at least one frame, got none from"):
        prepare(from_plain(TrainConfig, plain_run | {"data": {"train": [source | {"take": ":0"}]}}))
    large = max(make_frames(40), key=len)
    doubled = Atoms(large.numbers.tolist() * 2, np.concatenate([large.positions, large.positions + 20.0]))
    doubled.calc = SinglePointCalculator(doubled, energy=0.0, forces=np.zeros((len(doubled), 3)))
    ase.io.write(tmp_path / "test.xyz", doubled)
    data = plain_run["data"] | {"test": [{"path": str(tmp_path / "test.xyz")}]}
    with pytest.raises(DataError, match=r"batch.atoms must hold the largest frame.*test.xyz"):
        prepare(from_plain(TrainConfig, plain_run | {"data": data, "batch": {"atoms": len(large)}}))


def test_elements_do_not_cost_a_second_reading(
    toy: Any, plain_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[Path] = []
    original = frames._read_ase
    monkeypatch.setattr(frames, "_read_ase", lambda path: (parsed.append(path), original(path))[1])
    for _ in range(2):
        prepared = prepare(from_plain(TrainConfig, plain_run))
        assert prepared.model.type_names == ("H", "O")
    assert len(parsed) == 1


def test_atomic_energies_of_a_rare_element(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    energies = {"H": -16.3, "C": -1037.5, "Br": -70046.0}
    written = []
    for k in range(40):
        symbols = ["H"] * int(rng.integers(2, 9)) + ["C"] * int(rng.integers(1, 5)) + ["Br"] * (k == 7)
        atoms = Atoms(symbols, rng.normal(size=(len(symbols), 3)))
        atoms.calc = SinglePointCalculator(
            atoms, energy=sum(energies[s] for s in symbols), forces=np.zeros((len(symbols), 3))
        )
        written.append(atoms)
    ase.io.write(tmp_path / "f.xyz", written)
    names = list(energies)
    cutoffs = torch.full((3, 3), 4.0, dtype=torch.float64)
    table = build_table([SourceConfig(path=str(tmp_path / "f.xyz"))], names, cutoffs, tmp_path / "c")
    found = gather_statistics(table, StatisticsConfig()).energy_shifts
    assert np.abs(found - list(energies.values())).max() < 0.01
