"""The shipped example: what it holds, and that its labels are GFN2-xTB's."""

import h5py
import numpy as np
import pytest

import spice_data
from spice_data.read import inspect

HARTREE, BOHR = 27.211386245988, 0.529177210903


def test_contents():
    path = spice_data.example_path()
    assert path.stat().st_size < 5_000_000
    report = inspect(path, values=True)
    assert (report.groups, report.frames, report.problems, report.empty) == (102, 1022, [], [])
    assert len(report.subsets) == 7
    with spice_data.open(path) as file:
        molecules = list(file)
        assert {m.charge for m in molecules} == {-2, -1, 0, 1}
        assert sum(m.n_frames for m in molecules if m.charge) == 102
        forces = [np.abs(m.forces()).max() for m in molecules]
        assert 3 < max(forces) < 10
        for m in molecules:
            formation = m.formation_energies() / m.n_atoms
            assert formation.max() < 0 or "Ion" in m.subset, m.name


def test_layout_is_that_of_the_real_file(shared):
    with (
        h5py.File(shared / "real_spice_1.1.4_slice.hdf5") as real,
        h5py.File(spice_data.example_path()) as ours,
    ):
        truth, group = real["103147721"], ours["cc"]
        for key, dataset in group.items():
            assert dataset.dtype == truth[key].dtype, key
            assert dict(dataset.attrs) == dict(truth[key].attrs), key
            assert dataset.ndim == truth[key].ndim and dataset.chunks is truth[key].chunks is None
        missing = set(truth) - set(group)
        assert all(k.startswith(("mbis_", "mayer_", "scf_", "wiberg_")) for k in missing)


@pytest.mark.parametrize("name", ["cc", "c[nh3+]", "water3", "900000005", "cs"])
def test_labels(name):
    pytest.importorskip("tblite.interface")
    pytest.importorskip("rdkit")
    from spice_data.example.generate import Surface, atom_energy

    with spice_data.open(spice_data.example_path()) as file:
        m = file[name]
        surface = Surface(m.numbers, m.charge)
        isolated = sum(atom_energy(a, q) for a, q in _atoms(m.smiles)) * HARTREE
        for k in range(0, m.n_frames, 4):
            energy, gradient = surface(m.positions()[k])
            assert energy * HARTREE == pytest.approx(m.energies()[k], abs=1e-5)
            assert np.allclose(-gradient * HARTREE / BOHR, m.forces()[k], rtol=0, atol=1e-4)
            assert m.energies()[k] - isolated == pytest.approx(m.formation_energies()[k], abs=1e-4)


def _atoms(smiles):
    from spice_data.elements import NUMBERS
    from spice_data.read.charges import smiles_atoms

    return [(NUMBERS[a.symbol], a.charge) for a in smiles_atoms(smiles)]


def test_generator_writes_the_same_molecules(tmp_path):
    pytest.importorskip("tblite.interface")
    pytest.importorskip("rdkit")
    from spice_data.example.generate import generate
    from spice_data.example.molecules import ENTRIES

    entries = tuple(e for e in ENTRIES if e.name in ("o.n", "[F-].[Cl-]", "n"))
    assert generate(tmp_path / "part.hdf5", entries) == 31
    with (
        spice_data.open(tmp_path / "part.hdf5") as new,
        spice_data.open(spice_data.example_path()) as shipped,
    ):
        for molecule in new:
            same = shipped[molecule.name]
            assert (molecule.smiles, molecule.subset) == (same.smiles, same.subset)
            assert np.array_equal(molecule.numbers, same.numbers)
            assert molecule.energies().mean() == pytest.approx(same.energies().mean(), abs=0.2)
