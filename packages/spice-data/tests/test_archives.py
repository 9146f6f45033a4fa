"""Frames of NumPy archives and of LMDB files of ASE."""

import numpy as np
import pytest

from spice_data import DataError, Labels, read_frames
from spice_data.units import KCAL

RNG = np.random.default_rng(0)
X, E, F = RNG.random((5, 3, 3)), RNG.random(5), RNG.random((5, 3, 3))
CASES = {
    "rMD17": {"nuclear_charges": [8, 1, 1], "coords": X, "energies": E, "forces": F},
    "MD17": {"z": [8, 1, 1], "R": X, "E": E[:, None], "F": F},
    "periodic": {"numbers": [[8, 1, 1]] * 5, "positions": X, "energy": E, "forces": F, "cell": 5 * np.eye(3)},
}
KEYS = {"rMD17": ("energies", "forces"), "MD17": ("E", "F"), "periodic": ("energy", "forces")}


@pytest.mark.parametrize("case", CASES)
def test_layouts(tmp_path, case):
    np.savez(tmp_path / "a.npz", **CASES[case])
    labels = Labels(*KEYS[case], energy_unit="kcal/mol")
    frames = list(read_frames(tmp_path / "a.npz", labels))
    assert len(frames) == 5
    for k, frame in enumerate(frames):
        assert frame.numbers.tolist() == [8, 1, 1] and np.array_equal(frame.positions, X[k])
        assert frame.energy == pytest.approx(E[k] * KCAL) and np.allclose(frame.forces, F[k] * KCAL)
        assert frame.pbc.all() == (case == "periodic") and np.isnan(frame.stress).all()
    assert [f.energy for f in read_frames(tmp_path / "a.npz", labels, index="1::2")] == [
        frames[1].energy,
        frames[3].energy,
    ]


def test_frames_of_fewer_atoms_end_in_zeros(tmp_path):
    np.savez(tmp_path / "a.npz", numbers=[[8, 1, 1], [8, 1, 0]], positions=X[:2], energy=E[:2], forces=F[:2])
    first, second = read_frames(tmp_path / "a.npz")
    assert first.numbers.tolist() == [8, 1, 1] and second.numbers.tolist() == [8, 1]
    assert np.array_equal(second.forces, F[1, :2])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"x": X}, r"have positions under one of \['positions'.*got \['x'\]"),
        ({"R": X, "z": [1, 1]}, r"positions \(F, N, 3\) and elements .* got \(5, 3, 3\) and \(2,\)"),
        ({"R": X, "z": np.array([1, None, 1])}, "NumPy archive without objects"),
    ],
)
def test_what_is_no_archive_of_frames_is_an_error(tmp_path, data, message):
    np.savez(tmp_path / "a.npz", **data)
    with pytest.raises(DataError, match=message):
        list(read_frames(tmp_path / "a.npz"))


def test_aselmdb(tmp_path):
    pytest.importorskip("ase_db_backends")
    from ase import Atoms
    from ase.db import connect

    with connect(tmp_path / "a.aselmdb") as database:
        for k in range(5):
            database.write(Atoms("OHH", X[k]), ref=E[k], data={"f": F[k]})
    frames = list(read_frames(tmp_path / "a.aselmdb", Labels("ref", "f")))
    assert [f.energy for f in frames] == E.tolist()
    assert all(
        np.array_equal(f.positions, X[k]) and np.array_equal(f.forces, F[k]) for k, f in enumerate(frames)
    )
