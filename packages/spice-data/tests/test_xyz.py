"""Extended XYZ and ASE: round trips, every label and unit, and defects named by file, frame and key."""

import bz2
import contextlib
import gzip
import lzma

import numpy as np
import pytest

import spice_data
from spice_data import Labels, convert, from_ase, read_frames, to_ase, write_xyz
from spice_data.read import frames
from spice_data.store import writer
from spice_data.units import HARTREE

io = pytest.importorskip("ase.io")

GOOD = '2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc="F F F"\nH 0 0 0 0 0 1\nH 0 0 1 0 0 -1\n'
CELL = GOOD.replace('pbc="F F F"', 'Lattice="9 0 0 1 8 0 0 0 7" pbc="T T T"')


def _same(a, b):
    for x, y in zip(a, b, strict=True):
        assert np.array_equal(x, y, equal_nan=True) if isinstance(x, np.ndarray) else x == y or x != x


def _write(path, text):
    path.write_text(text)
    return path


def test_round_trip_is_exact(example_store, tmp_path):
    assert write_xyz(tmp_path / "a.xyz", example_store) == len(example_store)
    with convert(tmp_path / "a.xyz", tmp_path / "b.store") as store:
        store.verify()
        assert len(store) == len(example_store)
        for i in range(0, len(store), 7):
            _same(store[i], example_store[i])
        assert store.elements == example_store.elements
        assert store.statistics.energy_mean == pytest.approx(example_store.statistics.energy_mean, abs=1e-12)


def test_ase_reads_what_is_written(example_store, tmp_path):
    write_xyz(tmp_path / "a.xyz", example_store[:20])
    for atoms, frame in zip(io.read(tmp_path / "a.xyz", ":"), example_store[:20], strict=True):
        assert np.array_equal(atoms.positions, frame.positions)
        assert np.array_equal(atoms.get_forces(), frame.forces)
        assert atoms.get_potential_energy() == frame.energy
        assert atoms.info["subset"] == frame.subset and not atoms.pbc.any()


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.xyz.gz", "a.traj", "a.db"])
def test_what_ase_writes_is_read(example_store, tmp_path, name):
    io.write(tmp_path / name, [to_ase(f) for f in example_store[:30]])
    frames = list(read_frames(tmp_path / name))
    assert len(frames) == 30
    for frame, given in zip(frames, example_store[:30], strict=True):
        assert np.allclose(frame.positions, given.positions, rtol=0, atol=1e-8)
        assert np.allclose(frame.forces, given.forces, rtol=0, atol=1e-8)
        assert frame.energy == pytest.approx(given.energy, abs=1e-8)
        assert name == "a.db" or (frame.name, frame.subset, frame.smiles) == (*given[6:4:-1], given.smiles)


def test_ase_objects(example_store):
    _same(from_ase(to_ase(example_store[100])), example_store[100]._replace(molecule=0))
    rng = np.random.default_rng(0)
    stress = rng.normal(size=(3, 3))
    periodic = example_store[100]._replace(
        cell=rng.normal(size=(3, 3)) + 9 * np.eye(3),
        pbc=np.array([True, True, True]),
        stress=stress + stress.T,
        weight=2.5,
        molecule=0,
    )
    _same(from_ase(to_ase(periodic)), periodic)


@pytest.mark.parametrize(
    ("path", "count"), [("molecules/3bpa/train_300K.xyz", 500), ("periodic/mlearn_Si.xyz", 264)]
)
def test_real_files(shared, tmp_path, path, count):
    path = shared.parent / path
    expected = io.read(path, ":")
    with convert(path, tmp_path / "a.store", labels=Labels(partial=True)) as store:
        store.verify()
        assert len(store) == len(expected) == count
        for frame, atoms in zip(store, expected, strict=True):
            assert np.array_equal(frame.positions, atoms.positions)
            assert np.array_equal(frame.numbers, atoms.numbers)
            assert np.array_equal(frame.cell, atoms.cell.array) and np.array_equal(frame.pbc, atoms.pbc)
            if "stress" in (atoms.calc.results if atoms.calc else {}):
                assert np.array_equal(frame.stress, atoms.get_stress(voigt=False))


def test_periodic_frames_in_single_and_batch(tmp_path):
    text = GOOD * 3 + CELL.replace("energy", 'stress="1 2 3 2 4 5 3 5 6" config_weight=3 energy') + GOOD
    with convert(_write(tmp_path / "a.xyz", text), tmp_path / "a.store") as store:
        store.verify()
        assert [f.pbc.all() for f in store] == [False] * 3 + [True, False]
        assert all(getattr(store[3], name).flags.writeable for name in ("cell", "pbc", "stress"))
        assert store[3].cell.tolist() == [[9, 0, 0], [1, 8, 0], [0, 0, 7]] and store[3].weight == 3
        assert store[3].stress.tolist() == [[1, 2, 3], [2, 4, 5], [3, 5, 6]]
        assert store.statistics.labels == {"energy": 5, "forces": 5, "stress": 1}
        batch = store.batch([4, 3, 0])
        for b, i in enumerate((4, 3, 0)):
            fields = batch.cells[b], batch.pbc[b], batch.stresses[b], batch.weights[b]
            _same(fields, (store[i].cell, store[i].pbc, store[i].stress, store[i].weight))
        write_xyz(tmp_path / "b.xyz", store)
        for a, b in zip(store, read_frames(tmp_path / "b.xyz"), strict=True):
            _same(a[:4] + a[11:], b[:4] + b[11:])


SAME = 'stress="1 0 0 0 2 0 0 0 3"'
STRESSES = {
    "nine": (SAME, {}, 1.0),
    "voigt": ('stress="1 2 3 0 0 0"', {}, 1.0),
    "voigt under another key": ('REF_stress="1 2 3 0 0 0"', {"stress": "REF_stress"}, 1.0),
    "GPa": (SAME, {"stress_unit": "GPa"}, 1 / 160.2176634),
    "virial": ('virial="-504 -1008 -1512 0 0 0"', {}, 1.0),
    "virial under another key": ('v="-504 0 0 0 -1008 0 0 0 -1512"', {"virial": "v"}, 1.0),
    "both": (f'{SAME} virial="-504 -1008 -1512 0 0 0"', {}, 1.0),
}


@pytest.mark.parametrize("case", STRESSES)
def test_stress(tmp_path, case):
    pair, labels, scale = STRESSES[case]
    path = _write(tmp_path / "a.xyz", CELL.replace("energy", f"{pair} energy"))
    (frame,) = read_frames(path, Labels(**labels))
    assert np.allclose(frame.stress, np.diag([1.0, 2, 3]) * scale, rtol=1e-12, atol=0)


def test_units_and_keys(tmp_path):
    text = GOOD.replace("energy=", "E=").replace("forces:", "grad:")
    labels = Labels("E", "grad", energy_unit="hartree", length_unit="nanometer")
    (frame,) = read_frames(_write(tmp_path / "a.xyz", text), labels)
    assert frame.energy == pytest.approx(-1.5 * HARTREE) and frame.positions[1, 2] == 10
    assert frame.forces[0, 2] == pytest.approx(HARTREE / 10)
    with pytest.raises(ValueError, match="energy_unit must be one of"):
        Labels(energy_unit="joule")
    scaled = Labels(energy_scale=2.0, force_scale=-1.0, length_scale=0.5, stress=None, virial=None)
    (frame,) = read_frames(_write(tmp_path / "a.xyz", CELL.replace("energy", f"{SAME} energy")), scaled)
    (plain,) = read_frames(tmp_path / "a.xyz")
    assert frame.energy == 2 * plain.energy and np.array_equal(frame.forces, -plain.forces)
    assert np.array_equal(frame.cell, plain.cell / 2) and np.array_equal(frame.positions, plain.positions / 2)
    assert np.isfinite(plain.stress).all() and np.isnan(frame.stress).all()


def test_labels_without_a_key_are_absent(tmp_path):
    path = _write(tmp_path / "a.xyz", GOOD + NO_ENERGY)
    frames = list(read_frames(path, Labels(energy=None)))
    assert all(np.isnan(f.energy) and np.isfinite(f.forces).all() for f in frames)
    labels = Labels(energy="E", partial=True, required=False)
    with convert(path, tmp_path / "a.store", labels=labels) as store:
        assert store.statistics.labels == {"energy": 0, "forces": 2, "stress": 0}
        assert "energy" in store.provenance["keys"]
    with pytest.raises(spice_data.DataError, match="have the label 'E' in at least one frame"):
        convert(path, tmp_path / "b.store", labels=Labels(energy="E", partial=True))


@pytest.mark.parametrize("key", ["energy", "forces", "stress"])
def test_f11_info_arrays_and_calculator_must_agree(tmp_path, key):
    (frame,) = read_frames(_write(tmp_path / "a.xyz", CELL.replace("energy", f"{SAME} energy")))
    atoms = to_ase(frame)
    place = atoms.arrays if key == "forces" else atoms.info
    place[key] = np.array(atoms.calc.results[key])
    assert np.array_equal(from_ase(atoms).forces, frame.forces)
    place[key] = place[key] + 1e-3
    with pytest.raises(ValueError, match=f"key '{key}' must be the same in info and calculator"):
        from_ase(atoms)


def test_structures_as_they_are(tmp_path):
    path = _write(tmp_path / "a.xyz", GOOD + "\n\n" + NO_FORCES.replace("energy=", "REF_energy="))
    first, second = spice_data.read_atoms(path)
    assert first.get_potential_energy() == second.info["REF_energy"] == -1.5 and "velo" in second.arrays
    (again,) = spice_data.read_atoms(path, index="1:")
    assert again.info == second.info


def test_cell_vectors_as_lines(tmp_path):
    one = "1\nvectors\nH 0 0 0\nVEC1 5 0 0\nVEC2 0 6 0\nVEC3 0 0 7\n"
    frames = read_frames(_write(tmp_path / "a.xyz", one + "\n" + one), Labels(energy=None, forces=None))
    assert [np.diag(f.cell).tolist() for f in frames] == [[5, 6, 7]] * 2


NO_ENERGY = GOOD.replace(" energy=-1.5", "")
NO_FORCES = GOOD.replace("forces:R:3", "velo:R:3")


def test_partial_labels(tmp_path):
    text = GOOD + NO_ENERGY + NO_FORCES + GOOD.replace("-1.5", "nan")
    path = _write(tmp_path / "a.xyz", text)
    with pytest.raises(spice_data.DataError, match=r"frame 1.*'energy' must be present"):
        convert(path, tmp_path / "a.store")
    with convert(path, tmp_path / "a.store", labels=Labels(partial=True)) as store:
        assert [np.isnan(f.energy) for f in store] == [False, True, False, True]
        assert [np.isnan(f.forces).all() for f in store] == [False, False, True, False]
        assert store.statistics.labels == {"energy": 2, "forces": 3, "stress": 0}
        assert store.statistics.energy_mean == -0.75


@pytest.mark.parametrize(
    ("text", "labels", "pattern"),
    [
        (NO_ENERGY, {"partial": True}, "label 'energy' in at least one frame, got only .*'forces'"),
        (NO_FORCES, {"partial": True}, "label 'forces' in at least one frame, got only .*'energy'"),
        (CELL, {"stress": "REF_stress"}, "label 'REF_stress' in at least one frame"),
        (
            GOOD,
            {"energy": "REF_enrgy"},
            r"'REF_enrgy' must be present, got \['energy', 'forces'\] \(nearest: 'energy'",
        ),
    ],
)
def test_a_label_that_no_frame_has(tmp_path, text, labels, pattern):
    path = _write(tmp_path / "a.xyz", text * 2)
    with pytest.raises(spice_data.DataError, match=pattern):
        convert(path, tmp_path / "a.store", labels=Labels(**labels))
    assert not (tmp_path / "a.store").exists()


def test_a_single_atom_needs_no_forces(tmp_path):
    path = _write(tmp_path / "a.xyz", "1\nProperties=species:S:1:pos:R:3 energy=-0.5\nCu 0 0 0\n")
    (frame,) = read_frames(path)
    assert frame.forces.tolist() == [[0, 0, 0]] and frame.name == "Cu" and frame.subset == "a"


BAD = {
    "no count": (GOOD.replace("2\n", "two\n", 1), "number of atoms"),
    "truncated": (GOOD.rsplit("\n", 2)[0] + "\n", "2 atoms"),
    "blank line in a frame": (GOOD.replace("\nH 0 0 1", "\n\nH 0 0 1"), "2 atoms"),
    "short row": (GOOD.replace(" -1\n", "\n"), "readable by ASE"),
    "no energy": (GOOD.replace("energy=-1.5", "name=x"), "'energy'"),
    "no forces": (GOOD.replace("forces:R:3", "velo:R:3"), "'forces'"),
    "no species": (GOOD.replace("species:S:1", "kind:S:1"), "numbers from 1 to 103"),
    "unknown element": (GOOD.replace("H 0 0 1", "Hx 0 0 1"), "Hx"),
    "not a number": (GOOD.replace("0 0 1 0 0 -1", "0 0 one 0 0 -1"), "one"),
    "energy is no number": (GOOD.replace("energy=-1.5", "energy=low"), "'energy' must be a number"),
    "not finite": (GOOD.replace("energy=-1.5", "energy=nan"), "'energy' must be finite"),
    "one force not finite": (GOOD.replace("0 0 -1\n", "0 0 nan\n"), "'forces' must be finite"),
    "position not finite": (GOOD.replace("H 0 0 1", "H 0 0 inf"), "positions must be finite"),
    "properties": (GOOD.replace("pos:R:3", "pos:R:x"), "readable by ASE"),
    "no atoms": ("0\nenergy=0\n", "at least one atom"),
    "negative weight": (GOOD.replace("energy=", "config_weight=-1 energy="), "'config_weight'"),
    "virial of no volume": (
        CELL.replace("9 0 0 1 8 0 0 0 7", "0 0 0 0 0 0 0 0 0").replace(
            "energy", 'virial="1 1 1 0 0 0" energy'
        ),
        "volume",
    ),
    "stress of 5 numbers": (CELL.replace("energy", 'stress="1 2 3 4 5" energy'), "stress"),
    "stress against virial": (
        CELL.replace("energy", f'{SAME} virial="504 1008 1512 0 0 0" energy'),
        "must agree",
    ),
    "text charge": (GOOD.replace("energy=", 'charge="a b" energy='), "'charge' must be a number"),
    "fraction of a charge": (
        GOOD.replace("energy=", "charge=0.5 energy="),
        "'charge' must be a whole number",
    ),
    "formation energy": (
        GOOD.replace("energy=", "formation_energy=oops energy="),
        "'formation_energy' must be a number",
    ),
    "source frame": (
        GOOD.replace("energy=", "source_frame=1.5 energy="),
        "'source_frame' must be a whole number",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_defects_are_named(tmp_path, case):
    text, pattern = BAD[case]
    path = _write(tmp_path / "bad.xyz", GOOD + text)
    with pytest.raises(spice_data.DataError, match=rf"bad\.xyz.*frame 1.*{pattern}"):
        list(read_frames(path))
    with pytest.raises(spice_data.DataError, match=pattern):
        convert(path, tmp_path / "bad.store")
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == ["bad.xyz"]


@pytest.mark.parametrize("between", ["\n", "\n \n\t\n", ""])
@pytest.mark.parametrize("end", ["", "\n\n"])
def test_blank_lines_between_frames(tmp_path, between, end):
    path = _write(tmp_path / "a.xyz", between + between.join([GOOD] * 5) + end)
    assert len(list(read_frames(path))) == 5
    with convert(path, tmp_path / "a.store") as store:
        assert len(store) == 5


@pytest.mark.parametrize("part", [0.3, 0.5, 0.99])
@pytest.mark.parametrize("module", [gzip, bz2, lzma])
def test_damaged_archives(tmp_path, module, part):
    path = tmp_path / f"a.b.xyz{ {gzip: '.gz', bz2: '.bz2', lzma: '.xz'}[module] }"
    data = module.compress((GOOD * 500).encode())
    path.write_bytes(data)
    assert [f.subset for f in read_frames(path)] == ["a.b"] * 500
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(spice_data.DataError, match=r"a\.b\.xyz.* must be readable, got EOFError"):
        list(read_frames(path))


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "a.xyz").write_bytes(GOOD.replace("energy", "name=\xff energy").encode("latin-1"))
    with pytest.raises(spice_data.DataError, match=r"a\.xyz' must be readable, got UnicodeDecodeError"):
        list(read_frames(tmp_path / "a.xyz"))


def test_labels_in_a_database(tmp_path):
    from ase import Atoms
    from ase.db import connect

    with connect(tmp_path / "a.db") as database:
        for i in range(5):
            atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1]])
            forces = np.array([[0, 0, 1.0 + i], [0, 0, -1.0 - i]])
            database.write(atoms, REF_energy=-1.0 * i, name="H2", data={"REF_forces": forces})
    labels = Labels("REF_energy", "REF_forces")
    frames = list(read_frames(tmp_path / "a.db", labels, index="1:5:2"))
    assert [f.energy for f in frames] == [-1, -3] and [f.forces[0, 2] for f in frames] == [2, 4]
    with convert(tmp_path / "a.db", tmp_path / "a.store", labels=labels) as store:
        assert len(store) == 5 and store[0].name == "H2"
    with pytest.raises(
        spice_data.DataError, match=r"frame 0, key 'energy' must be present, got .*'REF_energy'"
    ):
        list(read_frames(tmp_path / "a.db"))


def test_an_empty_file_has_no_frames(tmp_path):
    with pytest.raises(spice_data.DataError, match="at least one frame in '5:'"):
        list(read_frames(_write(tmp_path / "b.xyz", GOOD * 5), index="5:"))
    with pytest.raises(spice_data.DataError, match="at least one frame"):
        convert(_write(tmp_path / "a.xyz", "\n"), tmp_path / "a.store")
    with pytest.raises(FileNotFoundError, match=r"none\.xyz"):
        convert(tmp_path / "none.xyz", tmp_path / "a.store")


def test_workers_give_the_same_frames(example_store, tmp_path):
    write_xyz(tmp_path / "a.xyz", example_store[:200])
    with convert(tmp_path / "a.xyz", tmp_path / "a.store") as a:
        with convert(tmp_path / "a.xyz", tmp_path / "b.store", workers=2) as b:
            assert a.digest == b.digest and len(b) == 200
    _write(tmp_path / "bad.xyz", GOOD * 100 + GOOD.replace("energy=-1.5", "energy=inf") + GOOD)
    with pytest.raises(spice_data.DataError, match=r"bad\.xyz', frame 100, key 'energy' must be finite"):
        list(read_frames(tmp_path / "bad.xyz", workers=2))
    with pytest.raises(ValueError, match="workers must be 0 or more"):
        read_frames(tmp_path / "a.xyz", workers=-1)


def test_workers_of_a_script_without_a_main_guard(tmp_path):
    import subprocess
    import sys

    _write(tmp_path / "a.xyz", GOOD * 100)
    _write(
        tmp_path / "s.py", "import spice_data\nprint(len(list(spice_data.read_frames('a.xyz', workers=2))))\n"
    )
    run = subprocess.run([sys.executable, "s.py"], cwd=tmp_path, text=True, capture_output=True, timeout=200)
    assert run.returncode == 1 and "workers must be 0 unless the script runs under" in run.stderr


@pytest.mark.parametrize("index", [":", "2:", ":3", "1:5:2"])
@pytest.mark.parametrize("name", ["a.xyz", "a.traj"])
def test_index(tmp_path, index, name):
    frames = [
        f._replace(name=f"f{i}") for i, f in enumerate(read_frames(_write(tmp_path / "g.xyz", GOOD * 6)))
    ]
    io.write(tmp_path / name, [to_ase(f) for f in frames])
    expected = [f.name for f in frames[slice(*(int(p) if p else None for p in index.split(":")))]]
    assert [f.name for f in read_frames(tmp_path / name, index=index)] == expected
    for bad in ("-1:", "3", "::0", "a:b"):
        with pytest.raises(ValueError, match="index must be a slice"):
            read_frames(tmp_path / name, index=bad)


def test_several_files_and_a_format_by_name(tmp_path):
    a, b = _write(tmp_path / "a.xyz", GOOD * 2), _write(tmp_path / "b", GOOD + "\n" + GOOD * 2)
    with convert([a, b], tmp_path / "c.store", format="extxyz") as store:
        assert [f.subset for f in store] == ["a"] * 2 + ["b"] * 3
    assert len(list(read_frames(b))) == 3  # recognized as extended XYZ, and read past the blank line
    with pytest.raises(spice_data.DataError, match=r"c\.bin.*readable by ASE"):
        list(read_frames(_write(tmp_path / "c.bin", "text")))


@pytest.mark.parametrize("name", ["xyz", "traj"])
def test_a_conversion_of_several_files_continues(example_store, tmp_path, monkeypatch, name):
    paths = [tmp_path / f"{k}.{name}" for k in range(3)]
    for k, path in enumerate(paths):
        io.write(path, [to_ase(f) for f in example_store[100 * k : 100 * k + 60]])
    monkeypatch.setattr(writer, "PIECE_BYTES", 10_000)
    with convert(paths, tmp_path / "whole.store") as store:
        digest = store.digest
    read, frame_of = [], frames._frame
    monkeypatch.setattr(frames, "_frame", lambda *a: read.append(1) or frame_of(*a))
    for stop in (40, 90, 170):
        done = []

        def progress(*_, done=done, stop=stop):
            done.append(1)
            if len(read) >= stop:
                raise ZeroDivisionError

        read.clear()
        with pytest.raises(ZeroDivisionError) if stop < 170 else contextlib.nullcontext():
            convert(paths, tmp_path / "a.store", progress=progress).close()
    assert 0 < len(read) < 120  # the frames before the checkpoint were not parsed again
    with spice_data.Store(tmp_path / "a.store") as store:
        assert store.digest == digest and list(store.provenance["files"].values()) == [60, 60, 60]


def test_molecules_are_runs_of_frames(tmp_path):
    charged = [GOOD.replace("energy", f"name=H2 charge={q} energy") for q in (0, -1, 1)]
    other = [GOOD.replace("energy", f"name=H2 charge=1 smiles={s} energy") for s in ("[H][H+]", "[H+][H]")]
    path = _write(tmp_path / "a.xyz", GOOD * 200 + "".join(charged + other + other[-1:]))
    with convert(path, tmp_path / "s") as store:
        store.verify()
        assert store.n_molecules == store.statistics.molecules == 5
        assert [store.molecule(i).frames for i in range(5)] == [201, 1, 1, 1, 2]
        assert [f.source_frame for f in store] == [*range(201), 0, 0, 0, 0, 1]
        assert [f.charge for f in store][199:] == [0, 0, -1, 1, 1, 1, 1]
        assert [f.smiles for f in store][-3:] == ["[H][H+]", "[H+][H]", "[H+][H]"]


@pytest.mark.parametrize("name", ['the "best" of \\ all', "007", "1e5", "T", "name=x", "900000001", "ü"])
def test_names_are_kept_as_they_are(example_store, tmp_path, name):
    smiles = r"[C:1]/[C:2]=[C:3]\[C:4]"
    frame = example_store[0]._replace(name=name, smiles=smiles)
    write_xyz(tmp_path / "a.xyz", [frame])
    io.write(tmp_path / "b.xyz", to_ase(frame))
    for path in (tmp_path / "a.xyz", tmp_path / "b.xyz"):
        (read,) = read_frames(path)
        assert (read.name, read.smiles, read.subset) == (name, smiles, frame.subset)


def test_two_writers_at_once(example_store, tmp_path):
    path, inner = tmp_path / "a.xyz", []

    def frames():
        yield example_store[0]
        inner.append(write_xyz(path, example_store[:3]))
        yield example_store[1]

    with pytest.raises(FileExistsError, match=r"a new file.*a\.xyz"):
        write_xyz(path, frames())
    assert inner == [3] and len(list(read_frames(path))) == 3
    assert write_xyz(path, example_store[:2], overwrite=True) == 2 == len(list(read_frames(path)))
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
