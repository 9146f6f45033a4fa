"""The SPICE test set and TorsionNet500."""

import json

import h5py
import numpy as np
import pytest

import spice_data
from spice_data.benchmarks import (
    barrier_errors,
    barrier_height,
    category,
    open_test_set,
    pairwise_energy_error,
    read_torsionnet500,
    read_torsions,
)
from spice_data.selection import Subsets
from spice_data.units import KCAL


def test_test_set(tmp_path, group_writer):
    path = tmp_path / "SPICE-test.hdf5"
    with h5py.File(path, "w") as file:
        for name in ("WP0", "ALA-ARG-ASN-ASP-CYS", "WP0 ala"):
            del group_writer(file, name)["subset"]
    with open_test_set(path) as file:
        assert {m.name: m.subset for m in file} == {
            "WP0": "small ligands",
            "ALA-ARG-ASN-ASP-CYS": "pentapeptides",
            "WP0 ala": "dimers",
        }
        with spice_data.convert(file, tmp_path / "t.store") as store:
            assert sorted(store.subsets) == ["dimers", "pentapeptides", "small ligands"]
        chosen = spice_data.select(file, Subsets(("*peptides",)))
        with spice_data.convert(chosen, tmp_path / "p.store", file=file) as store:
            assert store.subsets == ("pentapeptides",) and len(store) == 4
    with spice_data.open(path) as file, pytest.raises(spice_data.DataError, match="'subset'"):
        next(iter(file))


def test_categories():
    assert category("X", 59, "CC") == "small ligands"
    assert category("X", 60, "CC") == "large ligands"
    assert category("X-Y", 30, "CC.O") == "dimers"


def test_pairwise_energy_error_by_hand():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=9), rng.normal(size=9)
    pairs = [abs((a[i] - a[j]) - (b[i] - b[j])) for i in range(9) for j in range(i)]
    assert pairwise_energy_error(a, b) == pytest.approx(np.mean(pairs), rel=1e-12)
    assert pairwise_energy_error(a, a + 7) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="M ≥ 2"):
        pairwise_energy_error([1.0], [1.0])


def _sdf_record(name, symbols, positions, **data):
    lines = [name, "  made", "", f"{len(symbols):3d}  1  0  0  0  0  0  0  0  0999 V2000"]
    for s, x in zip(symbols, positions, strict=True):
        lines.append(f"{x[0]:10.4f}{x[1]:10.4f}{x[2]:10.4f} {s:<3} 0  0  0  0  0  0")
    lines += ["  1  2  1  0  0  0  0", "M  END"]
    for key, value in data.items():
        lines += [f"> <{key}>", str(value), ""]
    return "\n".join([*lines, "$$$$", ""])


@pytest.fixture
def scan():
    rng = np.random.default_rng(1)
    return rng.normal(size=(24, 4, 3)).round(4), rng.normal(size=24).round(6), np.arange(-165.0, 181.0, 15.0)


def _sdf(scan, copies=1, symbols=("O", "O", "H", "H")):
    records = [
        _sdf_record(f"m{c}", symbols, x, TORSION_ANGLE=int(a), Energy=e, TORSION_ATOMS_FRAGMENT="3 1 2 4")
        for c in range(copies)
        for x, e, a in zip(*scan, strict=True)
    ]
    return "".join(records)


def test_sdf(tmp_path, scan):
    path = tmp_path / "t.sdf"
    path.write_text(_sdf(scan, copies=2))
    profiles = list(read_torsions(path))
    assert [p.name for p in profiles] == ["m0", "m1"]
    positions, energies, angles = scan
    assert np.array_equal(profiles[1].positions, positions)
    assert np.array_equal(profiles[1].angles, angles)
    assert np.allclose(profiles[1].energies, energies / 23.060547830619026, rtol=1e-14)
    assert profiles[0].numbers.tolist() == [8, 8, 1, 1]
    (p, _) = read_torsions(path, energy_unit="eV")
    assert np.array_equal(p.energies, energies)


def test_sdf_against_rdkit(tmp_path, scan):
    chem = pytest.importorskip("rdkit.Chem")
    path = tmp_path / "t.sdf"
    path.write_text(_sdf(scan))
    (profile,) = read_torsions(path)
    molecules = list(chem.SDMolSupplier(str(path), removeHs=False, sanitize=False))
    for k, m in enumerate(molecules):
        assert np.array_equal(m.GetConformer().GetPositions(), profile.positions[k])
        assert float(m.GetProp("Energy")) == pytest.approx(profile.energies[k] / KCAL)
        assert [a.GetAtomicNum() for a in m.GetAtoms()] == profile.numbers.tolist()


def test_json(tmp_path, scan):
    positions, energies, angles = scan
    row = {
        "atom_symbols": ["O", "O", "H", "H"],
        "conformer_coordinates": positions.tolist(),
        "dft_energy_profile": np.stack((angles, energies), axis=1).tolist(),
        "smiles": "OO",
        "torsion_atom_indices": [2, 0, 1, 3],
    }
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"fragment_001": row}))
    (p,) = read_torsions(path)
    assert p.name == "fragment_001"
    assert np.array_equal(p.positions, positions) and np.array_equal(p.energies, energies * KCAL)
    row["dft_energy_profile"].pop()
    path.write_text(json.dumps({"fragment_001": row}))
    with pytest.raises(spice_data.DataError, match="fragment_001"):
        list(read_torsions(path))


def test_all_500(tmp_path, scan):
    positions, energies, angles = scan
    row = {
        "atom_symbols": ["O", "O", "H", "H"],
        "conformer_coordinates": positions.tolist(),
        "dft_energy_profile": np.stack((angles, energies), axis=1).tolist(),
    }
    path = tmp_path / "t.json"
    path.write_text(json.dumps({f"f{i}": row for i in range(500)}))
    assert len(read_torsionnet500(path)) == 500
    path.write_text(json.dumps({f"f{i}": row for i in range(499)}))
    with pytest.raises(spice_data.DataError, match=r"500 profiles of 24 angles.*499"):
        read_torsionnet500(path)


def _last_atom_changed(text):
    at = text.rindex(" O  ")
    return text[:at] + " H  " + text[at + 4 :]


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda t: t.replace("V2000", "V3000", 1), "record 0.*V2000"),
        (lambda t: t.replace("<Energy>", "<Other>", 1), "record 0.*'Energy'"),
        (lambda t: t.replace(" O  ", " Ox ", 1), "record 0.*symbol"),
        (lambda t: t.replace("<TORSION_ANGLE>\n-150", "<TORSION_ANGLE>\nwest", 1), "record 1.*'west'"),
        (lambda t: t[: t.rindex("m0\n")], "24 records.*23 left over"),
        (lambda t: t[: t.rindex("$$$$")], r"end each record by \$\$\$\$"),
        (_last_atom_changed, "record 23.*atoms of record 0"),
    ],
)
def test_sdf_defects(tmp_path, scan, change, pattern):
    path = tmp_path / "t.sdf"
    path.write_text(change(_sdf(scan)))
    with pytest.raises(spice_data.DataError, match=rf"t\.sdf.*{pattern}"):
        list(read_torsions(path))


def test_barriers():
    reference = [[0.0, 1.0, 0.2], [0.5, 0.1, 0.1]]
    predicted = [[9.3, 9.0, 10.2], [0.5, 0.1, 0.2]]
    e = barrier_errors(reference, predicted)
    assert barrier_height(predicted[0]) == pytest.approx(1.2)
    assert e.mae == pytest.approx(0.1) and e.rmse == pytest.approx(np.sqrt(0.02))
    assert (e.above_1_kcal, e.profiles) == (1, 2)
    by_hand = [np.mean([0, 1.3, 0.7]), np.mean([0, 0, 0.1])]
    assert e.profile_mae == pytest.approx(np.mean(by_hand))


@pytest.mark.parametrize("energies", [[1.0], [], [[1.0, 2.0]], [0.0, np.nan]])
def test_bad_profiles(energies):
    with pytest.raises(ValueError, match="energies"):
        barrier_height(energies)


def test_bad_comparisons(tmp_path):
    with pytest.raises(ValueError, match="shape"):
        barrier_errors([[0.0, 1.0]], [[0.0, 1.0, 2.0]])
    with pytest.raises(ValueError, match="at least one"):
        barrier_errors([], [])
    with pytest.raises(ValueError, match=r"shorter|argument 2"):
        barrier_errors([[0.0, 1.0]], [])
    with pytest.raises(ValueError, match="energy_unit"):
        list(read_torsions(tmp_path, energy_unit="joule"))
    with pytest.raises(FileNotFoundError, match=r"none\.sdf"):
        list(read_torsions(tmp_path / "none.sdf"))
