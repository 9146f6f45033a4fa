"""The writer: frames in, a store out, in bounded memory; defects refused; continued where it stopped."""

import numpy as np
import pytest

import spice_data
from spice_data import Frame, Store, StoreWriter
from spice_data.store import writer


def _frames(count, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(count):
        n = int(rng.integers(1, 9))
        numbers = rng.integers(1, 9, n)
        positions, forces = rng.normal(size=(2, n, 3))
        yield Frame(positions, numbers, float(rng.normal()), forces, name=f"m{i}", source_frame=0)


def test_frames_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "PIECE_BYTES", 3000)
    with StoreWriter(tmp_path / "a.store") as made:
        for frame in _frames(100):
            made.append(frame)
    with Store(tmp_path / "a.store") as store:
        store.verify()
        assert len(store) == store.n_molecules == 100 and store.statistics.labels["energy"] == 100
        for a, b in zip(store, _frames(100), strict=True):
            assert np.array_equal(a.positions, b.positions) and np.array_equal(a.forces, b.forces)
            assert (a.energy, a.name, a.weight) == (b.energy, b.name, 1.0)


@pytest.mark.parametrize("stops", [(30,), (10, 55, 90)])
def test_continues(tmp_path, monkeypatch, stops):
    monkeypatch.setattr(writer, "PIECE_BYTES", 3000)
    frames, starts = list(_frames(100)), []

    def write(stop):
        with StoreWriter(tmp_path / "a.store", identity="x") as made:
            starts.append(made.frames)
            for frame in frames[made.frames : stop]:
                made.append(frame)
            if stop < 100:
                raise ZeroDivisionError

    for stop in stops:
        with pytest.raises(ZeroDivisionError):
            write(stop)
    write(100)
    assert all(stop - 25 < start <= stop for start, stop in zip(starts[1:], stops, strict=True))
    with Store(tmp_path / "a.store") as store:
        store.verify()
        assert [f.name for f in store] == [f"m{i}" for i in range(100)]


def test_another_identity_starts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "PIECE_BYTES", 1)
    for identity, expected in (("x", 0), ("y", 0), ("y", 5)):
        with pytest.raises(ZeroDivisionError), StoreWriter(tmp_path / "a", identity=identity) as made:
            assert made.frames == expected
            for frame in _frames(5):
                made.append(frame)
            raise ZeroDivisionError
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"numbers": np.array([1, 300])}, "numbers must be atomic numbers from 1 to 103"),
        ({"numbers": np.array([0, 1])}, "numbers must be atomic numbers"),
        ({"positions": np.zeros((3, 3))}, r"positions must have shape \(1, 2, 3\)"),
        ({"forces": np.zeros((2, 2))}, "forces must have shape"),
        ({"positions": np.full((2, 3), np.nan)}, "positions must be finite"),
        ({"energy": np.inf}, "energies must be finite"),
        (
            {"forces": np.array([[0, 0, 0], [0, 0, np.nan]])},
            "forces must be NaN for a whole frame or not at all",
        ),
        ({"weight": np.nan}, "weights must be finite"),
        ({"cell": np.full((3, 3), np.inf)}, "cells must be finite"),
    ],
)
def test_frames_that_cannot_be_stored(tmp_path, change, pattern):
    frame = Frame(np.zeros((2, 3)), np.array([1, 1]), 0.0, np.zeros((2, 3)))._replace(**change)
    with pytest.raises(ValueError, match=pattern), StoreWriter(tmp_path / "a") as made:
        made.append(frame)
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


def test_no_frames(tmp_path):
    with pytest.raises(spice_data.DataError, match="at least one frame"), StoreWriter(tmp_path / "a"):
        pass


def test_memory_does_not_grow_with_frames(tmp_path, monkeypatch):
    import tracemalloc

    monkeypatch.setattr(writer, "PIECE_BYTES", 100_000)
    frame = next(_frames(1))._replace(positions=np.zeros((50, 3)), forces=np.zeros((50, 3)))
    frame = frame._replace(numbers=np.ones(50, np.int64))
    peaks = []
    for count in (300, 1200):
        tracemalloc.start()
        with StoreWriter(tmp_path / f"{count}") as made:
            for _ in range(count):
                made.append(frame)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] < 2_000_000  # four times the frames


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_every_frame_is_in_one_shard(example_store, count, seed):
    shards = [example_store.shard(i, count, seed=seed) for i in range(count)]
    assert sorted(np.concatenate(shards).tolist()) == list(range(len(example_store)))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    if seed is not None:
        assert np.array_equal(shards[0], example_store.shard(0, count, seed=seed))
        assert np.abs(np.diff(shards[0])).mean() > 200  # shuffled, not in order


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 1000, 65537])
def test_a_permutation_of_any_size(n):
    from spice_data.store.shuffle import permuted

    order = permuted(np.arange(n), n, 5)
    assert np.array_equal(np.sort(order), np.arange(n))


def test_a_shard_that_is_not_there(example_store):
    for index, count in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(ValueError, match="index must be from 0"):
            example_store.shard(index, count)
