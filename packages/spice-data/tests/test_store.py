"""The store: every frame as the source has it, from any process, and damage found."""

import multiprocessing
import pickle

import h5py
import numpy as np
import pytest

import spice_data
from spice_data.selection import MaxForce, Neutral, select

HARTREE, BOHR = 27.211386245988, 0.529177210903


def _equal(frame, molecule, k):
    assert np.array_equal(frame.positions, molecule.positions(k, k + 1)[0])
    assert np.array_equal(frame.forces, molecule.forces(k, k + 1)[0])
    assert np.array_equal(frame.numbers, molecule.numbers)
    assert frame.energy == molecule.energies(k, k + 1)[0]
    assert frame.formation_energy == molecule.formation_energies(k, k + 1)[0]
    assert (frame.name, frame.subset, frame.source_frame) == (molecule.name, molecule.subset, k)
    assert (frame.smiles, frame.charge) == (molecule.smiles, molecule.charge)


def test_every_frame_of_the_example(example_store):
    i = 0
    with spice_data.open(spice_data.example_path()) as file:
        for molecule in file:
            for k in range(molecule.n_frames):
                _equal(example_store[i], molecule, k)
                i += 1
    assert i == len(example_store) == 1022


@pytest.mark.parametrize("name", ["real_spice.hdf5", "spice_like_quirks.hdf5"])
def test_every_frame_of_shared_files(shared, tmp_path, name):
    with spice_data.convert(shared / name, tmp_path / "s") as store, spice_data.open(shared / name) as file:
        frames = iter(store)
        for molecule in file:
            for k in range(molecule.n_frames):
                _equal(next(frames), molecule, k)
        assert next(frames, None) is None
        assert store.provenance["empty_groups"] == (1 if "quirks" in name else 0)


def test_native_bits_are_kept(spice_file, tmp_path):
    with (
        spice_data.convert(spice_file, tmp_path / "s"),
        h5py.File(tmp_path / "s") as raw,
        h5py.File(spice_file) as h,
    ):
        order = ("c", "hydroxide", "water")
        positions = np.concatenate([h[n]["conformations"][()].reshape(-1, 3) for n in order])
        gradient = np.concatenate([h[n]["dft_total_gradient"][()].reshape(-1, 3) for n in order])
        assert raw["0/positions"].dtype == np.float32 and raw.attrs["length_units"] == "bohr"
        assert np.array_equal(raw["0/positions"][()], positions)
        assert np.array_equal(raw["0/forces"][()], -gradient)
        assert raw["0/frames"]["energy"].tolist() == [e for n in order for e in h[n]["dft_total_energy"]]
        for name in ("positions", "forces", "atomic_numbers", "frames", "molecules", "text"):
            dataset = raw[f"0/{name}"]
            assert dataset.chunks is None and dataset.id.get_offset() % 4096 == 0


def test_selection_is_what_is_stored(spice_file, tmp_path):
    with h5py.File(spice_file, "r+") as file:
        gradient = file["water/dft_total_gradient"][()]
        gradient[1] = 1.0
        file["water/dft_total_gradient"][...] = gradient
    selection = select(spice_file, Neutral(), MaxForce(45.0))
    with spice_data.convert(selection, tmp_path / "s") as store:
        assert [(f.name, f.source_frame) for f in store] == [("c", k) for k in range(4)] + [
            ("water", 0),
            ("water", 2),
            ("water", 3),
        ]
        assert [r["frames"] for r in store.provenance["removed"]] == [4, 1]
        assert [store.molecule(i).frames for i in range(store.n_molecules)] == [4, 3]


def test_batch_equals_single_frames(example_store):
    rng = np.random.default_rng(0)
    indices = np.concatenate((rng.integers(0, len(example_store), 100), [5, 5, 1021, 0, 6, 7, 8]))
    batch = example_store.batch(indices)
    assert batch.offsets[0] == 0 and batch.offsets[-1] == len(batch.numbers) == len(batch.forces)
    for b, i in enumerate(indices):
        frame, rows = example_store[i], slice(batch.offsets[b], batch.offsets[b + 1])
        assert np.array_equal(batch.positions[rows], frame.positions)
        assert np.array_equal(batch.forces[rows], frame.forces)
        assert np.array_equal(batch.numbers[rows], frame.numbers)
        assert (batch.energies[b], batch.formation_energies[b]) == (frame.energy, frame.formation_energy)
        assert example_store.subsets[batch.subsets[b]] == frame.subset
        assert batch.molecules[b] == frame.molecule


def test_empty_batch(example_store):
    batch = example_store.batch([])
    assert batch.positions.shape == (0, 3) and batch.offsets.tolist() == [0]


def test_indices(example_store):
    assert example_store[-1].source_frame == example_store[len(example_store) - 1].source_frame
    assert [f.source_frame for f in example_store[3:6]] == [3, 4, 5]
    for bad in (len(example_store), -len(example_store) - 1):
        with pytest.raises(IndexError, match=f"got {bad}"):
            example_store[bad]
    with pytest.raises(IndexError, match="indices"):
        example_store.batch([0, len(example_store)])
    with pytest.raises(IndexError, match="indices"):
        example_store.batch([-1])
    with pytest.raises(TypeError):
        example_store[1.5]


def test_frames_can_be_written_to(example_store):
    first = example_store[0]
    first.positions[0] = 1.0
    first.forces[0] = 1.0
    assert all(getattr(first, name).flags.writeable for name in ("cell", "pbc", "stress", "numbers"))
    assert not np.array_equal(example_store[0].positions, first.positions)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes(example_store, method):
    indices = [1000, 3, 500, 3, 77, 900]
    with multiprocessing.get_context(method).Pool(2) as pool:
        frames = pool.map(example_store.__getitem__, indices)
    for i, frame in zip(indices, frames, strict=True):
        assert (
            np.array_equal(frame.positions, example_store[i].positions)
            and frame.name == example_store[i].name
        )


def test_a_copy_sent_elsewhere_opens_its_own_file(example_store):
    copy = pickle.loads(pickle.dumps(example_store))
    copy.close()
    assert len(example_store[0].numbers) == 11


def test_metadata(example_store):
    assert example_store.elements == ("H", "C", "N", "O", "F", "S", "Cl")
    assert "SPICE Water Clusters v1.0" in example_store.subsets
    info = example_store.molecule(example_store[0].molecule)
    assert (info.name, info.charge, info.first_frame, info.frames) == ("900000001", 0, 0, 10)
    assert info.smiles.startswith("[N:1]")
    with pytest.raises(IndexError, match="molecule"):
        example_store.molecule(example_store.n_molecules)


def test_statistics(example_store):
    frames = list(example_store)
    s = example_store.statistics
    per_atom = np.array([f.formation_energy / len(f.numbers) for f in frames])
    forces = np.concatenate([f.forces for f in frames])
    assert (s.frames, s.molecules, s.atoms) == (1022, 102, len(forces))
    assert s.energy_mean == pytest.approx(per_atom.mean(), abs=1e-12)
    assert s.energy_std == pytest.approx(per_atom.std(), abs=1e-9)
    assert s.force_rms == pytest.approx(np.sqrt((forces**2).mean()), rel=1e-12)
    assert s.force_max == pytest.approx(np.abs(forces).max(), rel=1e-12)
    z = np.concatenate([f.numbers for f in frames])
    assert s.elements == {
        "H": (z == 1).sum(),
        "C": (z == 6).sum(),
        "N": (z == 7).sum(),
        "O": (z == 8).sum(),
    } | {
        "F": (z == 9).sum(),
        "S": (z == 16).sum(),
        "Cl": (z == 17).sum(),
    }
    counts = np.array([[(f.numbers == k).sum() for k in (1, 6, 7, 8, 9, 16, 17)] for f in frames], float)
    expected = np.linalg.lstsq(counts, np.array([f.energy for f in frames]), rcond=None)[0]
    assert list(s.element_energies().values()) == pytest.approx(expected, abs=1e-4)
    water = s.subsets["SPICE Water Clusters v1.0"]
    assert (water.molecules, water.frames, water.atoms) == (5, 50, 600)


@pytest.mark.parametrize("dataset", ["positions", "forces", "atomic_numbers", "frames", "molecules", "text"])
def test_a_flipped_bit_is_found(example_store, tmp_path, dataset):
    example_store.verify()
    with h5py.File(example_store.path) as raw:
        place = raw[f"0/{dataset}"].id.get_offset() + raw[f"0/{dataset}"].id.get_storage_size() // 2
    data = bytearray(example_store.path.read_bytes())
    data[place] ^= 0x10
    (tmp_path / "bad.store").write_bytes(data)
    with spice_data.Store(tmp_path / "bad.store") as bad:
        with pytest.raises(spice_data.DataError, match=rf"bad\.store.*dataset '{dataset}'.*CRC"):
            bad.verify()


def test_truncated_store(example_store, tmp_path):
    (tmp_path / "cut.store").write_bytes(example_store.path.read_bytes()[:-50_000])
    with pytest.raises(spice_data.DataError, match=r"cut\.store.*complete store"):
        spice_data.Store(tmp_path / "cut.store")


def test_truncated_while_open(example_store, tmp_path):
    path = tmp_path / "shrinks.store"
    path.write_bytes(example_store.path.read_bytes())
    with spice_data.Store(path) as store:
        with open(path, "r+b") as f:
            f.truncate(10_000)
        with pytest.raises(spice_data.DataError, match=r"shrinks\.store.*end of the file"):
            store.verify()


def test_not_a_store(spice_file, tmp_path):
    with pytest.raises(spice_data.DataError, match="spice-data-store"):
        spice_data.Store(spice_file)
    with pytest.raises(FileNotFoundError, match=r"none\.store"):
        spice_data.Store(tmp_path / "none.store")
    (tmp_path / "text").write_text("text")
    with pytest.raises(spice_data.DataError, match="complete store"):
        spice_data.Store(tmp_path / "text")


def test_a_batch_of_what_is_no_index(example_store):
    for given in (np.arange(len(example_store)) < 3, [0.0, 1.5], np.array([1.0]), ["1"]):
        with pytest.raises(TypeError, match="indices must be integers, got"):
            example_store.batch(given)
    assert len(example_store.batch([]).energies) == 0
    three = example_store.batch(np.flatnonzero(np.arange(len(example_store)) < 3).astype(np.uint8))
    assert three.energies.tolist() == [example_store[i].energy for i in range(3)]
