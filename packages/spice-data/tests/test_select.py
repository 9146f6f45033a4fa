"""Filters and the counts of what they remove."""

import json
import re

import h5py
import numpy as np
import pytest

import spice_data
from spice_data.selection import (
    Elements,
    MaxForce,
    Neutral,
    NeutralAtoms,
    NoIsolatedAtoms,
    Removed,
    Selection,
    Subsets,
    select,
)


def test_the_192_ion_pair_frames(shared):
    with spice_data.open(shared / "ion_pair_geometries.hdf5", labels=False) as file:
        selection = select(file, Neutral(), NoIsolatedAtoms(6.0))
    assert selection.removed[1].frames == 192
    assert selection.frames == 28 * 51
    assert selection.removed[0] == Removed("neutral", 16 * 51, 16)
    assert selection.n_frames == 12 * 51 - 192


def test_counts_per_filter_on_shared_data(shared):
    with h5py.File(shared / "spice_like_10k.hdf5") as raw:
        signs = {n: re.findall(r"([+-]\d*):", g["smiles"].asstr()[0]) for n, g in raw.items()}
        charge = {n: sum(int(s if s[1:] else s + "1") for s in found) for n, found in signs.items()}
        charged = {n for n, q in charge.items() if q != 0}
        strong = {}
        for name in set(raw) - charged:
            gradient = raw[name]["dft_total_gradient"][()].astype(float) * 27.211386245988 / 0.529177210903
            strong[name] = int((np.abs(gradient).max(axis=(1, 2)) > 5).sum())
        lost = sum(len(raw[n]["conformations"]) for n in charged)
    selection = select(shared / "spice_like_10k.hdf5", Neutral(), MaxForce(5.0))
    assert len(charged) == 48
    assert selection.removed[0] == Removed("neutral", lost, 48)
    assert selection.removed[1].frames == sum(strong.values()) > 0
    assert selection.n_frames == 9922 - lost - sum(strong.values())


def test_each_filter(spice_file):
    def names(*filters):
        return set(select(spice_file, *filters).kept)

    assert names() == {"water", "hydroxide", "c"}
    assert names(Neutral()) == {"water", "c"}
    assert names(Elements(("H", "O"))) == {"water", "hydroxide"}
    assert names(Subsets(("SPICE Gas",))) == {"c"}
    assert names(Subsets(("*Water", "*Ions"))) == {"water", "hydroxide"}
    assert names(Neutral(), Elements(("O", "H"))) == {"water"}


def test_neutral_atoms_is_stricter_than_neutral(tmp_path, group_writer):
    path = tmp_path / "z.hdf5"
    smiles = "[C:1]([H:2])([H:3])([H:4])[N+:5](=[O:6])[O-:7]"
    with h5py.File(path, "w") as file:
        group_writer(file, "nitromethane", smiles, (6, 1, 1, 1, 7, 8, 8))
    assert select(path, Neutral()).n_frames == 4
    assert select(path, NeutralAtoms()).n_frames == 0


def test_frames_are_selected_one_by_one(spice_file):
    with h5py.File(spice_file, "r+") as file:
        gradient = file["water/dft_total_gradient"][()]
        gradient[1, 2, 0] = 1.0
        file["water/dft_total_gradient"][...] = gradient
        positions = file["c/conformations"][()]
        positions[3, 4] = 100.0
        file["c/conformations"][...] = positions
    selection = select(spice_file, MaxForce(45.0), NoIsolatedAtoms(20.0))
    assert selection.kept["water"] == ((0, 1), (2, 4))
    assert selection.kept["c"] == ((0, 3),)
    assert selection.removed == (
        Removed("max-force 45 eV/Å", 1, 0),
        Removed("no-isolated-atoms 20 Å", 1, 0),
    )


def test_a_frame_counts_for_the_first_filter_that_rejects_it(spice_file):
    one = select(spice_file, Neutral(), Elements(("C", "H")))
    two = select(spice_file, Elements(("C", "H")), Neutral())
    assert [r.frames for r in one.removed] == [4, 4]
    assert [r.frames for r in two.removed] == [8, 0]
    assert one.kept == two.kept


def test_isolated_at_exactly_the_cutoff(tmp_path, group_writer):
    path = tmp_path / "p.hdf5"
    with h5py.File(path, "w") as file:
        group = group_writer(file, "pair", "[Na+:1].[Cl-:2]", (11, 17), frames=3)
        group["conformations"].attrs["units"] = "angstrom"
        group["conformations"][...] = [[[0, 0, 0], [0, 0, d]] for d in (5.875, 6.0, 6.125)]
    assert select(path, NoIsolatedAtoms(6.0)).kept["pair"] == ((0, 1),)


def test_a_lone_atom_is_isolated(tmp_path, group_writer):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        group_writer(file, "ion", "[Na+:1]", (11,))
    assert select(path, NoIsolatedAtoms(6.0)).n_frames == 0


def test_what_is_empty_is_said(spice_file):
    selection = select(spice_file)
    assert selection.empty == ("nothing",)
    assert "empty groups" in selection.table() and "kept" in selection.table()


def test_round_trip(spice_file, tmp_path):
    selection = select(spice_file, Neutral(), MaxForce(8.0))
    selection.save(tmp_path / "s.json")
    assert Selection.load(tmp_path / "s.json") == selection


def test_unknown_subset(spice_file):
    with pytest.raises(spice_data.DataError, match=r"small.hdf5.*'Dipeptides\*'.*SPICE Water"):
        select(spice_file, Subsets(("*Gas", "Dipeptides*")))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: MaxForce(0.0), "limit"),
        (lambda: MaxForce(float("nan")), "limit"),
        (lambda: NoIsolatedAtoms(-1.0), "cutoff"),
        (lambda: Elements(("H", "Xx")), "Xx"),
    ],
)
def test_bad_filters(make, word):
    with pytest.raises(ValueError, match=word):
        make()


@pytest.mark.parametrize("text", ["", "[]", '{"format": "other", "version": 1}', "{"])
def test_not_a_selection(tmp_path, text):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(spice_data.DataError, match=r"s\.json"):
        Selection.load(path)


@pytest.mark.parametrize("field", ["path", "size", "groups", "frames", "labels", "empty", "removed", "kept"])
def test_a_selection_that_lacks_a_field(spice_file, tmp_path, field):
    path = tmp_path / "s.json"
    select(spice_file).save(path)
    data = json.loads(path.read_text())
    del data[field]
    path.write_text(json.dumps(data))
    with pytest.raises(spice_data.DataError, match=rf"s\.json.*'{field}'"):
        Selection.load(path)
    if field in ("kept", "removed", "path"):
        path.write_text(json.dumps({**data, field: 3}))
        with pytest.raises(spice_data.DataError, match=r"s\.json.*types"):
            Selection.load(path)


@pytest.mark.parametrize("answer", [np.array([0, 2]), np.ones(3, bool), 1, None, np.ones((4, 1), bool)])
def test_a_filter_that_does_not_answer(spice_file, answer):
    class Mine:
        name = "mine"

        def __call__(self, molecule):
            return answer

    with pytest.raises(ValueError, match=r"filter 'mine' must return .* mask of bools \(4,\)"):
        select(spice_file, Mine())


def test_a_filter_that_answers(spice_file):
    class Mine:
        name = "mine"

        def __call__(self, molecule):
            return np.array([True, False, False, True]) if molecule.name == "water" else np.bool_(False)

    assert select(spice_file, Mine()).kept == {"water": ((0, 1), (3, 4))}


@pytest.mark.parametrize("accept", [Neutral(), NeutralAtoms()])
def test_a_smiles_that_cannot_be_read(tmp_path, group_writer, accept):
    path = tmp_path / "bad.hdf5"
    with h5py.File(path, "w") as file:
        group_writer(file, "a")
        group_writer(file, "b", "[O:1]([H:2]")
        group_writer(file, "c", "[Zz:1]", (6,))
    with pytest.raises(spice_data.DataError, match=r"bad\.hdf5.*group 'c', dataset 'smiles'.*Zz"):
        select(path, accept)
    with pytest.raises(spice_data.DataError, match=r"bad\.hdf5.*group 'c', dataset 'smiles'.*Zz"):
        spice_data.convert(path, tmp_path / "bad.store")
    assert {p.name for p in tmp_path.iterdir()} <= {"bad.hdf5", ".bad.store.lock"}
    with h5py.File(path, "r+") as file:
        del file["c/atomic_numbers"]
    with spice_data.open(path, labels=False) as file:
        with pytest.raises(spice_data.DataError, match=r"group 'c', dataset 'smiles'.*Zz"):
            file["c"]


def test_progress(spice_file):
    calls = []
    select(spice_file, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
