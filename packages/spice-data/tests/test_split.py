"""Splits: deterministic, disjoint, complete, and tied to their store."""

import json

import numpy as np
import pytest

import spice_data
from spice_data.store import Split, split


@pytest.mark.parametrize("by", ["frame", "molecule"])
@pytest.mark.parametrize("ratios", [(90, 5, 5), (1, 1, 1), (1, 0, 0), (0, 0, 2)])
def test_a_partition(example_store, by, ratios):
    parts = split(example_store, ratios, by=by)
    together = np.concatenate((parts.train, parts.val, parts.test))
    assert np.array_equal(np.sort(together), np.arange(len(example_store)))
    for part, ratio in zip((parts.train, parts.val, parts.test), ratios, strict=True):
        assert np.array_equal(part, np.sort(part))
        assert abs(len(part) - 1022 * ratio / sum(ratios)) < (1 if by == "frame" else 22)


def test_the_same_everywhere(example_store):
    # values fixed for good: they must not depend on platform, numpy, or anything but seed and size
    assert split(example_store).test[:6].tolist() == FRAME_TEST
    assert split(example_store, seed=1).test[:6].tolist() != FRAME_TEST
    names = {example_store[int(i)].name for i in split(example_store, by="molecule").test}
    assert names == MOLECULE_TEST


FRAME_TEST = [23, 33, 50, 69, 87, 144]
MOLECULE_TEST = {"ccc", "[o-]c=o", "cc[nh3+]", "cc[n+](=o)[o-]", "900000009", "cnc=o"}


def test_molecules_stay_together(example_store):
    parts = split(example_store, by="molecule")
    of = [{example_store[int(i)].molecule for i in p} for p in (parts.train, parts.val, parts.test)]
    assert not of[0] & of[1] and not of[0] & of[2] and not of[1] & of[2]
    assert min(map(len, of)) >= 4
    mixed = split(example_store, by="frame")
    assert {example_store[int(i)].molecule for i in mixed.test} & {
        example_store[int(i)].molecule for i in mixed.train
    }


def test_one_molecule_under_several_names(tmp_path, group_writer):
    import h5py

    path = tmp_path / "twice.hdf5"
    with h5py.File(path, "w") as file:
        for i in range(6):
            group_writer(file, f"water-{i}", seed=i)
        for i in range(6):
            group_writer(
                file, f"c{i}", "[C:1]" + "".join(f"[C:{k}]" for k in range(2, i + 3)), (6,) * (i + 2)
            )
    with spice_data.convert(path, tmp_path / "s") as store:
        for seed in range(5):
            parts = split(store, (2, 1, 1), by="molecule", seed=seed)
            sides = [{store[int(i)].name[:5] for i in p} for p in (parts.train, parts.val, parts.test)]
            assert sum("water" in side for side in sides) == 1


def _store_of(tmp_path, group_writer, counts):
    """A store of molecules that have so many frames."""
    import h5py

    with h5py.File(tmp_path / "counts.hdf5", "w") as file:
        for i, frames in enumerate(counts):
            group_writer(file, f"c{i}", "C" * (i + 1), (6,) * (i + 1), frames)
    return spice_data.convert(tmp_path / "counts.hdf5", tmp_path / "counts.store", overwrite=True)


def test_a_large_molecule_does_not_go_to_a_small_part(tmp_path, group_writer):
    with _store_of(tmp_path, group_writer, [200, *[5] * 20]) as store:
        for seed in range(8):
            parts = split(store, by="molecule", seed=seed)
            assert (len(parts.train), len(parts.val), len(parts.test)) == (270, 15, 15)
    with _store_of(tmp_path, group_writer, [10, 30, 10, 30]) as store:  # none fits: the smallest are taken
        parts = split(store, by="molecule")
        assert (len(parts.train), len(parts.val), len(parts.test)) == (60, 10, 10)
        parts = split(store, (0, 1, 1), by="molecule")
        assert len(parts.train) == 0 and len(parts.val) + len(parts.test) == 80


@pytest.mark.parametrize(
    ("counts", "by"), [([10, 10], "molecule"), ([4, 3], "molecule"), ([9], "molecule"), ([4, 4], "frame")]
)
def test_no_part_is_empty_in_silence(tmp_path, group_writer, counts, by):
    with _store_of(tmp_path, group_writer, counts) as store:
        with pytest.raises(
            ValueError, match=rf"ratios must leave no part empty by {by}, got .* of {sum(counts)} frames"
        ):
            split(store, by=by)


def test_a_seed_of_numpy(example_store, tmp_path):
    parts = split(example_store, seed=np.int64(3))
    parts.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json").digest == parts.digest == split(example_store, seed=3).digest
    with pytest.raises(TypeError):
        split(example_store, seed=3.0)


@pytest.mark.parametrize("field", ["digest", "train", "ratios", "store_digest", "seed", "by"])
def test_a_split_that_lacks_a_field(example_store, tmp_path, field):
    path = tmp_path / "split.json"
    split(example_store).save(path)
    data = json.loads(path.read_text())
    for broken in ({k: v for k, v in data.items() if k != field}, {**data, field: {"a": 1}}):
        path.write_text(json.dumps(broken))
        with pytest.raises(spice_data.DataError, match=r"split\.json"):
            Split.load(path)


def test_round_trip_and_ownership(example_store, tmp_path, spice_file):
    parts = split(example_store, by="molecule", seed=3)
    parts.save(tmp_path / "split.json")
    again = Split.load(tmp_path / "split.json", example_store)
    assert np.array_equal(again.train, parts.train) and again.digest == parts.digest
    with spice_data.convert(spice_file, tmp_path / "other.store") as other:
        with pytest.raises(spice_data.DataError, match=r"split\.json.*store of digest"):
            Split.load(tmp_path / "split.json", other)


def test_an_altered_split_is_found(example_store, tmp_path):
    split(example_store).save(tmp_path / "split.json")
    data = json.loads((tmp_path / "split.json").read_text())
    data["train"].append(data["test"].pop())
    (tmp_path / "split.json").write_text(json.dumps(data))
    with pytest.raises(spice_data.DataError, match=r"split\.json.*digest"):
        Split.load(tmp_path / "split.json")


def test_digest_follows_the_contents(example_store, tmp_path):
    with spice_data.convert(spice_data.example_path(), tmp_path / "again.store") as again:
        assert again.digest == example_store.digest
    selection = spice_data.select(spice_data.example_path())
    del selection.kept["c"]
    with spice_data.convert(selection, tmp_path / "less.store") as less:
        assert less.digest != example_store.digest


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"ratios": (90, 10)}, "ratios"),
        ({"ratios": (-1, 1, 1)}, "ratios"),
        ({"ratios": (0, 0, 0)}, "ratios"),
        ({"ratios": (float("nan"), 1, 1)}, "ratios"),
        ({"by": "subset"}, "by"),
    ],
)
def test_bad_arguments(example_store, arguments, word):
    with pytest.raises(ValueError, match=word):
        split(example_store, **arguments)
