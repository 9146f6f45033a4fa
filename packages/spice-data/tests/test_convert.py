"""Conversion under interruption, repetition, concurrency and a full disk: a complete store or none."""

import errno
import os
import subprocess
import sys
import threading

import h5py
import numpy as np
import pytest
from filelock import FileLock, Timeout

import spice_data
from spice_data.selection import Neutral, select
from spice_data.store import spice_source, writer
from spice_data.store.spice_source import SpiceSource


class Stop(Exception):
    pass


def _stop_at(count):
    def progress(done, total):
        if done >= count:
            raise Stop

    return progress


@pytest.fixture
def skipped(monkeypatch):
    """Return how many frames each conversion took from an earlier one."""
    calls, blocks = [], SpiceSource.blocks

    def spy(self, skip):
        calls.append(skip)
        return blocks(self, skip)

    monkeypatch.setattr(SpiceSource, "blocks", spy)
    return calls


def _run(code, **kwargs):
    return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=120, **kwargs)


def test_continues_where_it_stopped(tmp_path, monkeypatch, skipped):
    monkeypatch.setattr(writer, "PIECE_BYTES", 20_000)
    source = spice_data.example_path()
    spice_data.convert(source, tmp_path / "whole.store").close()
    for count in (30, 70):
        with pytest.raises(Stop):
            spice_data.convert(source, tmp_path / "a.store", progress=_stop_at(count))
        assert not (tmp_path / "a.store").exists()
    spice_data.convert(source, tmp_path / "a.store").close()
    assert skipped[:2] == [0, 0] and 150 < skipped[2] < skipped[3] < 1022
    assert (tmp_path / "a.store").read_bytes() == (tmp_path / "whole.store").read_bytes()
    assert {p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")} == {"a.store", "whole.store"}


def test_killed_process(tmp_path, skipped):
    code = f"""
import os, spice_data
from spice_data.store import writer
writer.PIECE_BYTES = 20_000
def progress(done, total):
    if done > 50:
        os._exit(9)
spice_data.convert(spice_data.example_path(), {str(tmp_path / "a.store")!r}, progress=progress)
"""
    assert _run(code).returncode == 9
    assert not (tmp_path / "a.store").exists()
    with spice_data.convert(spice_data.example_path(), tmp_path / "a.store") as store:
        store.verify()
        assert len(store) == 1022 and store.statistics.frames == 1022
    assert skipped[0] > 300


@pytest.mark.parametrize("damage", ["journal", "part", "source", "selection"])
def test_starts_again_when_something_changed(tmp_path, monkeypatch, skipped, spice_file, damage):
    monkeypatch.setattr(writer, "PIECE_BYTES", 1)
    target = tmp_path / "a.store"
    with pytest.raises(Stop):
        spice_data.convert(spice_file, target, progress=_stop_at(2))
    source = spice_file
    if damage == "journal":
        (tmp_path / ".a.store.journal").write_text("{")
    elif damage == "part":
        (tmp_path / ".a.store.part").write_bytes(b"")
    elif damage == "source":
        os.utime(spice_file, ns=(1, 1))
    else:
        source = select(spice_file, Neutral())
    with spice_data.convert(source, target) as store:
        store.verify()
        assert len(store) == (8 if damage == "selection" else 12)
    assert skipped == [0, 0]


def test_two_processes_take_turns(tmp_path):
    code = f"""
import time, spice_data
target = {str(tmp_path / "a.store")!r}
with spice_data.convert(spice_data.example_path(), target, overwrite=True, wait=True) as store:
    store.verify()
    print(len(store))
"""
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [r.communicate(timeout=120)[0] for r in runs] == ["1022\n"] * 3
    with spice_data.Store(tmp_path / "a.store") as store:
        store.verify()


@pytest.mark.parametrize("overwrite", [False, True])
def test_who_waited_gets_what_was_made(tmp_path, monkeypatch, skipped, overwrite):
    source, target = spice_data.example_path(), tmp_path / "a.store"
    convert, started, refused, results = spice_data.convert, threading.Event(), threading.Event(), []
    acquire = FileLock.acquire

    def spy(lock, timeout=None):
        try:
            return acquire(lock, timeout)
        except Timeout:
            refused.set()
            raise

    monkeypatch.setattr(FileLock, "acquire", spy)

    def second():
        started.wait()
        with convert(source, target, overwrite=overwrite, wait=True) as store:
            results.append(len(store))

    def progress(done, total):
        started.set()
        assert refused.wait(60)

    thread = threading.Thread(target=second)
    thread.start()
    convert(source, target, progress=progress).close()
    thread.join()
    assert results == [1022] and skipped == [0]
    convert(source, target, wait=True).close()  # who comes late gets it as well
    assert skipped == [0]
    with spice_data.Store(target) as store:
        spice_data.write_xyz(tmp_path / "a.xyz", store[:3])
    for other in (select(source, Neutral()), tmp_path / "a.xyz"):
        with pytest.raises(FileExistsError, match="new file"):
            convert(other, target, wait=True)


def test_second_process_is_refused(tmp_path):
    target = tmp_path / "a.store"
    code = f"import spice_data; spice_data.convert(spice_data.example_path(), {str(target)!r})"

    def progress(done, total):
        if done == 10:
            results.append(_run(code))

    results = []
    spice_data.convert(spice_data.example_path(), target, progress=progress).close()
    (second,) = results
    assert second.returncode == 1 and "BlockingIOError" in second.stderr and "a.store" in second.stderr


def test_file_size_limit(tmp_path):
    code = f"""
import resource, spice_data
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
spice_data.convert(spice_data.example_path(), {str(tmp_path / "a.store")!r})
"""
    run = _run(code)
    assert run.returncode == 1 and "OSError" in run.stderr and "no space for" in run.stderr
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


def test_disk_full_in_the_middle(tmp_path, monkeypatch, skipped):
    monkeypatch.setattr(writer, "PIECE_BYTES", 20_000)
    calls, allocate = [], os.posix_fallocate

    def limited(fd, offset, size):
        calls.append(size)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", limited)
    with pytest.raises(OSError, match="No space left"):
        spice_data.convert(spice_data.example_path(), tmp_path / "a.store")
    assert not (tmp_path / "a.store").exists()
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    with spice_data.convert(spice_data.example_path(), tmp_path / "a.store") as store:
        store.verify()
    assert skipped[1] > 0


def test_file_size_limit_after_a_checkpoint(tmp_path, skipped):
    code = f"""
import resource, spice_data
from spice_data.store import writer
writer.PIECE_BYTES = 50_000
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
spice_data.convert(spice_data.example_path(), {str(tmp_path / "a.store")!r})
"""
    run = _run(code)
    assert run.returncode == 1 and "OSError" in run.stderr and "no space for" in run.stderr
    with spice_data.convert(spice_data.example_path(), tmp_path / "a.store") as store:
        store.verify()
        assert len(store) == 1022


def test_big_groups_are_read_in_blocks(tmp_path, monkeypatch, spice_file):
    spice_data.convert(spice_file, tmp_path / "a").close()
    monkeypatch.setattr(spice_source, "BLOCK_BYTES", 1)
    with spice_data.convert(spice_file, tmp_path / "b") as store:
        assert store.statistics.molecules == 3
    with h5py.File(tmp_path / "a") as a, h5py.File(tmp_path / "b") as b:
        for name in ("positions", "frames", "molecules", "text", "forces", "atomic_numbers"):
            assert a[f"0/{name}"][()].tobytes() == b[f"0/{name}"][()].tobytes()


@pytest.mark.parametrize("size", [1, 700, 5000])
def test_pieces_of_any_size_hold_the_same_frames(tmp_path, monkeypatch, example_store, size):
    monkeypatch.setattr(writer, "PIECE_BYTES", size)
    with spice_data.convert(spice_data.example_path(), tmp_path / "a.store") as store:
        store.verify()
        assert store.digest == example_store.digest
        assert store.statistics.to_json() == example_store.statistics.to_json()
        order = np.random.default_rng(0).permutation(len(store))[:200]
        for mine, other in zip(store.batch(order), example_store.batch(order), strict=True):
            assert np.array_equal(mine, other, equal_nan=True)
        assert store[517].positions.tolist() == example_store[517].positions.tolist()


def test_existing_file_is_not_overwritten(tmp_path, spice_file):
    target = tmp_path / "a.store"
    target.write_text("precious")
    with pytest.raises(FileExistsError, match=r"a\.store"):
        spice_data.convert(spice_file, target)
    assert target.read_text() == "precious"
    spice_data.convert(spice_file, target, overwrite=True).close()
    assert len(spice_data.Store(target)) == 12


def test_selection_of_another_file(tmp_path, spice_file):
    selection = select(spice_file)
    with h5py.File(spice_file, "r+") as file:
        file.create_dataset("more", data=[1.0] * 10_000)
    with pytest.raises(spice_data.DataError, match="bytes that the selection was made from"):
        spice_data.convert(selection, tmp_path / "a.store")


def test_nothing_selected(tmp_path, spice_file, group_writer):
    path = tmp_path / "charged.hdf5"
    with h5py.File(path, "w") as file:
        group_writer(file, "hydroxide", "[O-:1][H:2]", (8, 1))
    with pytest.raises(spice_data.DataError, match="at least one frame"):
        spice_data.convert(select(path, Neutral()), tmp_path / "a.store")


def test_mixed_units_are_refused(tmp_path, spice_file):
    with h5py.File(spice_file, "r+") as file:
        file["water/conformations"].attrs["units"] = "angstrom"
    with pytest.raises(spice_data.DataError, match=r"group 'water', dataset 'conformations'.*units"):
        spice_data.convert(spice_file, tmp_path / "a.store")


def test_geometries_alone_are_refused(tmp_path, spice_file):
    with (
        spice_data.open(spice_file, labels=False) as file,
        pytest.raises(ValueError, match=r"file must .*energies.*labels=False"),
    ):
        spice_data.convert(file, tmp_path / "a.store")
    assert not (tmp_path / "a.store").exists()
