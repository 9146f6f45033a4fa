"""The reader: real files read exactly, traps met, defects named."""

import h5py
import numpy as np
import pytest

import spice_data
from spice_data.read import inspect

HARTREE, BOHR = 27.211386245988, 0.529177210903
FILES = ("real_spice_1.1.4_slice.hdf5", "real_spice.hdf5", "spice_like_quirks.hdf5", "spice_like_10k.hdf5")


def test_values_and_units(spice_file):
    with h5py.File(spice_file) as raw, spice_data.open(spice_file) as file:
        molecule = file["water"]
        group = raw["water"]
        assert (molecule.smiles, molecule.subset, molecule.charge) == ("[O:1]([H:2])[H:3]", "SPICE Water", 0)
        assert molecule.numbers.tolist() == [8, 1, 1]
        assert np.array_equal(molecule.positions(), group["conformations"][()].astype(float) * BOHR)
        assert np.array_equal(molecule.energies(), group["dft_total_energy"][()] * HARTREE)
        assert np.array_equal(molecule.formation_energies(), group["formation_energy"][()] * HARTREE)
        gradient = group["dft_total_gradient"][()].astype(float)
        assert np.array_equal(molecule.forces(), -(gradient * (HARTREE / BOHR)))
        assert np.array_equal(molecule.forces(1, 3), molecule.forces()[1:3])
        assert molecule.positions().dtype == molecule.forces().dtype == np.float64
        assert file["hydroxide"].charge == -1


def test_collection(spice_file):
    with spice_data.open(spice_file) as file:
        assert len(file) == 4
        assert [m.name for m in file] == ["c", "hydroxide", "nothing", "water"]
        assert "c" in file and "C" not in file
        with pytest.raises(KeyError, match="methane"):
            file["methane"]


def test_empty_group(spice_file):
    with spice_data.open(spice_file) as file:
        molecule = file["nothing"]
        assert molecule.n_frames == 0
        assert molecule.positions().shape == (0, 3, 3) == molecule.forces().shape
        assert molecule.energies().shape == (0,)


def test_optional_formation_energy(spice_file):
    with h5py.File(spice_file, "r+") as file:
        del file["water/formation_energy"]
    with spice_data.open(spice_file) as file:
        assert file["water"].energies().shape == (4,)
        with pytest.raises(spice_data.DataError, match=r"small.hdf5.*'water'.*'formation_energy'"):
            file["water"].formation_energies()


def test_angstrom_and_electronvolt(spice_file):
    with h5py.File(spice_file, "r+") as file:
        file["water/conformations"].attrs["units"] = b"angstrom"
        file["water/dft_total_energy"].attrs["units"] = "eV"
        file["water/dft_total_gradient"].attrs["units"] = "eV/angstrom"
        raw = {k: file["water"][k][()] for k in ("conformations", "dft_total_energy", "dft_total_gradient")}
    with spice_data.open(spice_file) as file:
        assert np.array_equal(file["water"].positions(), raw["conformations"])
        assert np.array_equal(file["water"].energies(), raw["dft_total_energy"])
        assert np.array_equal(file["water"].forces(), -raw["dft_total_gradient"])


def test_every_way_of_storing_is_read(spice_file):
    """Groups need not agree in byte order, precision, kind of text or storage of a dataset of one name."""
    with h5py.File(spice_file, "r+") as file:
        group = file["hydroxide"]
        for key, kind, storage in (
            ("conformations", ">f8", {"chunks": (1, 2, 3), "compression": "gzip"}),
            ("dft_total_energy", ">f4", {}),
            ("dft_total_gradient", "<f8", {"chunks": True}),
            ("atomic_numbers", ">i4", {"chunks": (1,)}),
        ):
            values, units = group[key][()], group[key].attrs.get("units")
            del group[key]
            dataset = group.create_dataset(key, data=values.astype(kind), **storage)
            if units is not None:
                dataset.attrs["units"] = np.bytes_(units)  # fixed length
        for key in ("smiles", "subset"):
            text = group[key].asstr()[0]
            del group[key]
            group.create_dataset(key, data=np.array([text.encode()]))
        expected = {
            name: {key: d[()] for key, d in file[name].items()} for name in ("c", "hydroxide", "water")
        }
    with spice_data.open(spice_file) as file:
        for name, arrays in expected.items():  # the odd one in the middle
            molecule = file[name]
            assert molecule.smiles.encode() == arrays["smiles"][0]
            assert molecule.subset.encode() == arrays["subset"][0]
            assert np.array_equal(molecule.numbers, arrays["atomic_numbers"])
            for key in ("conformations", "dft_total_energy", "dft_total_gradient"):
                assert np.array_equal(molecule.raw(key), arrays[key]), (name, key)
                assert molecule.raw(key).dtype == arrays[key].dtype
            assert np.array_equal(molecule.positions(), arrays["conformations"].astype(float) * BOHR)


@pytest.mark.parametrize("name", FILES)
def test_shared_files_exactly(shared, name):
    with h5py.File(shared / name) as raw, spice_data.open(shared / name) as file:
        assert len(file) == len(raw)
        for molecule in file:
            group = raw[molecule.name]
            assert molecule.smiles == group["smiles"].asstr()[0]
            assert molecule.subset == group["subset"].asstr()[0]
            assert np.array_equal(molecule.numbers, group["atomic_numbers"][()])
            assert molecule.n_frames == group["conformations"].shape[0]
            if molecule.n_frames:
                assert np.array_equal(molecule.positions(), group["conformations"][()].astype(float) * BOHR)
                assert np.array_equal(molecule.energies(), group["dft_total_energy"][()] * HARTREE)
                assert np.array_equal(molecule.raw("dft_total_gradient"), group["dft_total_gradient"][()])
                gradient = group["dft_total_gradient"][()].astype(float)
                assert np.array_equal(molecule.forces(), -(gradient * (HARTREE / BOHR)))


def test_shared_counts(shared):
    found = {}
    for name in FILES:
        report = inspect(shared / name, values=True)
        assert report.problems == []
        found[name] = (report.groups, report.frames, report.empty)
    assert found == {
        FILES[0]: (2, 55, []),
        FILES[1]: (243, 898, []),
        FILES[2]: (21, 200, ["all-filtered"]),
        FILES[3]: (279, 9922, []),
    }


def test_fields_missing_where_they_did_not_converge(shared):
    path = shared / "real_spice_1.1.4_slice.hdf5"
    with spice_data.open(path) as file, h5py.File(path) as raw:
        found = file["103147721"].optional("mbis_charges")
        assert np.array_equal(found, raw["103147721/mbis_charges"][()]) and found.dtype == np.float32
        assert file["C#C.[Na+]"].optional("mbis_charges") is None
        assert file["C#C.[Na+]"].optional("mayer_indices").shape == (5, 5, 5)


def test_geometry_only_file(shared):
    path = shared / "ion_pair_geometries.hdf5"
    with spice_data.open(path, labels=False) as file, h5py.File(path) as raw:
        molecule = file["[Na+:1].[Cl-:2]"]
        assert molecule.numbers.tolist() == [11, 17] and molecule.charge == 0
        expected = raw["[Na+:1].[Cl-:2]/conformations"][()].astype(float) * 10
        assert np.array_equal(molecule.positions(), expected)
    with spice_data.open(path) as file, pytest.raises(spice_data.DataError, match="'atomic_numbers'"):
        next(iter(file))


def _delete(key):
    def change(group):
        del group[key]

    return change


def _replace(key, data, **attributes):
    def change(group):
        units = group[key].attrs.get("units")
        del group[key]
        dataset = group.create_dataset(key, data=data)
        if units is not None:
            dataset.attrs["units"] = units
        dataset.attrs.update(attributes)

    return change


def _unit(key, unit):
    def change(group):
        if unit is None:
            del group[key].attrs["units"]
        else:
            group[key].attrs["units"] = unit

    return change


def _group(key):
    def change(group):
        del group[key]
        group.create_group(key)

    return change


DEFECTS = {
    "no conformations": (_delete("conformations"), "conformations"),
    "no energy": (_delete("dft_total_energy"), "dft_total_energy"),
    "group of energies": (_group("dft_total_energy"), "dft_total_energy"),
    "numeric unit": (_unit("conformations", 1.0), "conformations"),
    "two units": (_unit("conformations", ["bohr", "bohr"]), "conformations"),
    "no gradient": (_delete("dft_total_gradient"), "dft_total_gradient"),
    "no smiles": (_delete("smiles"), "smiles"),
    "no subset": (_delete("subset"), "subset"),
    "no numbers": (_delete("atomic_numbers"), "atomic_numbers"),
    "flat conformations": (_replace("conformations", np.zeros((4, 9), "f4")), "conformations"),
    "other atoms": (_replace("conformations", np.zeros((4, 2, 3), "f4")), "conformations"),
    "short energies": (_replace("dft_total_energy", np.zeros(3)), "dft_total_energy"),
    "long gradient": (_replace("dft_total_gradient", np.zeros((5, 3, 3), "f4")), "dft_total_gradient"),
    "integer positions": (_replace("conformations", np.zeros((4, 3, 3), int)), "conformations"),
    "float numbers": (_replace("atomic_numbers", np.array([8.0, 1, 1])), "atomic_numbers"),
    "atomic number 0": (_replace("atomic_numbers", np.array([8, 1, 0])), "atomic_numbers"),
    "two smiles": (_replace("smiles", ["C", "N"]), "smiles"),
    "numeric smiles": (_replace("smiles", [1.0]), "smiles"),
    "unit of length": (_unit("conformations", "furlong"), "conformations"),
    "energy in joule": (_unit("dft_total_energy", "joule"), "dft_total_energy"),
    "gradient without unit": (_unit("dft_total_gradient", None), "dft_total_gradient"),
    "formation unit": (_unit("formation_energy", "bohr"), "formation_energy"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_named(spice_file, tmp_path, defect):
    change, dataset = DEFECTS[defect]
    with h5py.File(spice_file, "r+") as file:
        change(file["water"])
    pattern = rf"small\.hdf5'.*group 'water'.*dataset '{dataset}'.*must .*got"
    with spice_data.open(spice_file) as file, pytest.raises(spice_data.DataError, match=pattern):
        file["water"]
    report = inspect(spice_file)
    assert len(report.problems) == 1 and dataset in report.problems[0]
    with pytest.raises(spice_data.DataError, match=pattern):
        spice_data.convert(spice_file, tmp_path / "s.store")
    assert not (tmp_path / "s.store").exists()


@pytest.mark.parametrize(
    "key", ["conformations", "dft_total_energy", "dft_total_gradient", "formation_energy"]
)
def test_nan_is_named(spice_file, tmp_path, key):
    with h5py.File(spice_file, "r+") as file:
        file["water"][key][2] = np.nan
    pattern = rf"group 'water', dataset '{key}'.*finite.*frame 2"
    with pytest.raises(spice_data.DataError, match=pattern):
        spice_data.convert(spice_file, tmp_path / "s.store")
    assert any("frame 2" in p for p in inspect(spice_file, values=True).problems)


def test_atoms_that_contradict_the_smiles(spice_file):
    with h5py.File(spice_file, "r+") as file:
        file["water/atomic_numbers"][...] = [1, 8, 1]
    (problem,) = inspect(spice_file, values=True).problems
    assert "'water'" in problem and "'atomic_numbers'" in problem


def test_dataset_at_the_root(spice_file):
    with h5py.File(spice_file, "r+") as file:
        file["stray"] = 1.0
    with spice_data.open(spice_file) as file, pytest.raises(spice_data.DataError, match="'stray'"):
        file["stray"]


def test_errors_travel_between_processes():
    import pickle

    for error in (
        spice_data.DataError("a", "be b", "c", "g", "d"),
        spice_data.DataError("a", "be b", 1, at="frame 3"),
        spice_data.DataError.inside("a", "frame 3", ValueError("key 'e' must be finite, got nan")),
    ):
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


def test_not_hdf5(tmp_path):
    path = tmp_path / "a.hdf5"
    path.write_bytes(b"not an HDF5 file at all")
    with pytest.raises(spice_data.DataError, match=r"a\.hdf5.*must be an HDF5 file.*23 bytes"):
        spice_data.open(path)
    with pytest.raises(FileNotFoundError, match=r"missing\.hdf5"):
        spice_data.open(tmp_path / "missing.hdf5")


def test_truncated(spice_file, tmp_path):
    path = tmp_path / "cut.hdf5"
    path.write_bytes(spice_file.read_bytes()[:-3000])
    with pytest.raises(spice_data.DataError, match=r"cut\.hdf5.*must be a complete HDF5 file"):
        spice_data.open(path)


def test_names_that_differ_in_case_only(spice_file, group_writer):
    with h5py.File(spice_file, "r+") as file:
        group_writer(file, "C")
    report = inspect(spice_file)
    assert report.colliding == [("C", "c")]
    with spice_data.open(spice_file) as file:
        assert file["C"].n_atoms == 3 and file["c"].n_atoms == 5
