"""Extended XYZ and ASE, there and back."""

import numpy as np
import pytest

import spice_data
from spice_data.xyz import from_ase, read_xyz, to_ase, write_xyz


def _same(a, b):
    for x, y in zip(a, b, strict=True):
        if isinstance(x, np.ndarray):
            assert np.array_equal(x, y)
        else:
            assert x == y or x != x


def test_round_trip_is_exact(example_store, tmp_path):
    assert write_xyz(tmp_path / "a.xyz", example_store) == len(example_store)
    with spice_data.convert(tmp_path / "a.xyz", tmp_path / "b.store") as store:
        store.verify()
        assert len(store) == len(example_store)
        for i in range(0, len(store), 7):
            _same(store[i], example_store[i])
        assert store.elements == example_store.elements
        assert store.statistics.energy_mean == pytest.approx(example_store.statistics.energy_mean, abs=1e-12)


def test_read_by_ase(example_store, tmp_path):
    io = pytest.importorskip("ase.io")
    write_xyz(tmp_path / "a.xyz", example_store[:20])
    for atoms, frame in zip(io.read(tmp_path / "a.xyz", ":"), example_store[:20], strict=True):
        assert np.array_equal(atoms.positions, frame.positions)
        assert np.array_equal(atoms.get_forces(), frame.forces)
        assert atoms.get_potential_energy() == frame.energy
        assert atoms.info["name"] == frame.name or int(atoms.info["name"]) == int(frame.name)
        assert atoms.info["subset"] == frame.subset and not atoms.pbc.any()


def test_written_by_ase(example_store, tmp_path):
    io = pytest.importorskip("ase.io")
    io.write(tmp_path / "a.xyz", [to_ase(f) for f in example_store[:30]])
    with spice_data.convert(tmp_path / "a.xyz", tmp_path / "a.store") as store:
        for i in range(30):
            assert np.allclose(store[i].positions, example_store[i].positions, rtol=0, atol=1e-8)
            assert np.allclose(store[i].forces, example_store[i].forces, rtol=0, atol=1e-8)
            assert store[i].energy == pytest.approx(example_store[i].energy, abs=1e-8)
            assert store[i].name == example_store[i].name


def test_ase_objects(example_store):
    pytest.importorskip("ase")
    frame = example_store[100]
    back = from_ase(to_ase(frame))
    assert np.array_equal(back.positions, frame.positions) and np.array_equal(back.forces, frame.forces)
    assert (back.energy, back.name, back.subset) == (frame.energy, frame.name, frame.subset)
    periodic = to_ase(frame)
    periodic.pbc = True
    with pytest.raises(ValueError, match="periodic"):
        from_ase(periodic)


def test_real_files(shared):
    path = shared.parent / "molecules" / "3bpa" / "train_300K.xyz"
    io = pytest.importorskip("ase.io")
    frames = list(read_xyz(path))
    expected = io.read(path, ":")
    assert len(frames) == len(expected) == 500
    for frame, atoms in zip(frames[::50], expected[::50], strict=True):
        assert np.array_equal(frame.positions, atoms.positions)
        assert np.array_equal(frame.numbers, atoms.numbers)


GOOD = '2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc="F F F"\nH 0 0 0 0 0 1\nH 0 0 1 0 0 -1\n'
BAD = {
    "no count": (GOOD.replace("2\n", "two\n", 1), "number of atoms"),
    "truncated": (GOOD.rsplit("\n", 2)[0] + "\n", "2 atoms"),
    "short row": (GOOD.replace(" -1\n", "\n"), "7 columns"),
    "no energy": (GOOD.replace("energy=-1.5", "name=x"), "'energy'"),
    "no forces": (GOOD.replace("forces:R:3", "velo:R:3"), "'forces'"),
    "no species": (GOOD.replace("species:S:1", "kind:S:1"), "species"),
    "unknown element": (GOOD.replace("H 0 0 1", "Hx 0 0 1"), "Hx"),
    "not a number": (GOOD.replace("0 0 1 0 0 -1", "0 0 one 0 0 -1"), "numbers"),
    "not finite": (GOOD.replace("energy=-1.5", "energy=nan"), "finite"),
    "properties": (GOOD.replace("pos:R:3", "pos:R:x"), "Properties"),
    "no atoms": ("0\nenergy=0\n", "at least one atom"),
    "periodic": (GOOD.replace('pbc="F F F"', 'Lattice="9 0 0 0 9 0 0 0 9" pbc="T T T"'), "periodic"),
    "periodic by default": (GOOD.replace('pbc="F F F"', 'Lattice="9 0 0 0 9 0 0 0 9"'), "periodic"),
}


@pytest.mark.parametrize("case", BAD)
def test_defects_are_named(tmp_path, case):
    text, pattern = BAD[case]
    path = tmp_path / "bad.xyz"
    path.write_text(GOOD + text)
    with pytest.raises(spice_data.DataError, match=rf"bad\.xyz.*frame 1.*{pattern}"):
        list(read_xyz(path))
    with pytest.raises(spice_data.DataError):
        spice_data.convert(path, tmp_path / "bad.store")
    assert not (tmp_path / "bad.store").exists()


def test_plain_frame(tmp_path):
    path = tmp_path / "good.xyz"
    path.write_text(GOOD * 3 + "\n")
    with spice_data.convert(path, tmp_path / "s") as store:
        assert len(store) == 3 and store.n_molecules == 1 and store[2].name == "H2"
        assert store[0].energy == -1.5 and np.isnan(store[0].formation_energy)
        assert store[0].forces.tolist() == [[0, 0, 1], [0, 0, -1]]


def test_a_molecule_of_many_frames_and_molecules_of_one_name(tmp_path):
    path = tmp_path / "a.xyz"
    charged = [GOOD.replace("energy", f"name=H2 charge={q} energy") for q in (0, -1, 1)]
    other = [GOOD.replace("energy", f"name=H2 charge=1 smiles={s} energy") for s in ("[H][H+]", "[H+][H]")]
    path.write_text(GOOD * 200 + "".join(charged + other + other[-1:]))
    with spice_data.convert(path, tmp_path / "s") as store:
        store.verify()
        assert store.n_molecules == store.statistics.molecules == 5
        assert [store.molecule(i).frames for i in range(5)] == [201, 1, 1, 1, 2]
        assert [f.source_frame for f in store] == [*range(201), 0, 0, 0, 0, 1]
        assert [f.charge for f in store][199:] == [0, 0, -1, 1, 1, 1, 1]
        assert [f.smiles for f in store][-3:] == ["[H][H+]", "[H+][H]", "[H+][H]"]


@pytest.mark.parametrize("pair", ['charge="a b"', "charge=0.5", "formation_energy=oops", "source_frame=1.5"])
def test_numbers_of_the_comment_line_are_named(tmp_path, pair):
    path = tmp_path / "bad.xyz"
    path.write_text(GOOD + GOOD.replace("energy=", f"{pair} energy="))
    key, value = pair.split("=")
    with pytest.raises(spice_data.DataError, match=rf"bad\.xyz.*frame 1.*'{key}'.*number.*{value[-2]}"):
        spice_data.convert(path, tmp_path / "bad.store")
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == ["bad.xyz"]


def test_quotes_and_backslashes_in_names(example_store, tmp_path):
    name, smiles = 'the "best" of \\ all', r"[C:1]/[C:2]=[C:3]\[C:4]"
    frame = example_store[0]._replace(name=name, smiles=smiles)
    write_xyz(tmp_path / "a.xyz", [frame])
    io = pytest.importorskip("ase.io")
    assert io.read(tmp_path / "a.xyz").info["name"] == name
    io.write(tmp_path / "b.xyz", to_ase(frame))
    for path in (tmp_path / "a.xyz", tmp_path / "b.xyz"):
        (read,) = read_xyz(path)
        assert (read.info["name"], read.info["smiles"]) == (name, smiles)


def test_two_writers_at_once(example_store, tmp_path):
    path, inner = tmp_path / "a.xyz", []

    def frames():
        yield example_store[0]
        inner.append(write_xyz(path, example_store[:3]))
        yield example_store[1]

    with pytest.raises(FileExistsError, match=r"a new file.*a\.xyz"):
        write_xyz(path, frames())
    assert inner == [3] and len(list(read_xyz(path))) == 3
    assert write_xyz(path, example_store[:2], overwrite=True) == 2 == len(list(read_xyz(path)))
    with pytest.raises(FileExistsError, match="than the source"):
        write_xyz(example_store.path, example_store, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.xyz"]


def test_failed_write_leaves_nothing(example_store, tmp_path):
    def frames():
        yield example_store[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_xyz(tmp_path / "a.xyz", frames())
    assert list(tmp_path.iterdir()) == []
