"""Frames of sources: labels, units, selections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest

from mlip_train.config import SourceConfig
from mlip_train.data.sources import DataError, read


@pytest.mark.parametrize(
    ("path", "option", "message"),
    [
        (
            "f.xyz",
            {"split": "s.json", "part": "test"},
            r"source.split must be used with a .store, got 's.json'",
        ),
        ("f.xyz", {"charge": 0}, "source.charge must be used with a SPICE file or a .store, got 0 for"),
        ("f.xyz", {"exclude": ("f",)}, "source.exclude must be used with a SPICE file"),
        ("f.hdf5", {"split": "s.json", "part": "test"}, "source.split must be used with a .store"),
        (
            "f.hdf5",
            {"energy_scale": 2.0},
            "source.energy_scale must be used with a file that ASE reads, got 2.0",
        ),
        ("f.store", {"forces": "F"}, "source.forces must be used with a file that ASE reads, got 'F'"),
        ("f.store", {"part": "test"}, "source.split, source.part must be given together"),
        ("f.xyz", {"weight": -1.0}, "source.weight must be at least 0, got -1.0"),
    ],
)
def test_options_that_do_not_apply(path: str, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(read(SourceConfig(path=path, **option)))


def one_frame(path: Path, comment: str, **options: Any) -> Any:
    """Frame of two atoms in a cell of 4 Å with this text in its comment line."""
    path.write_text(
        f'2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3 {comment}\n'
        "O 0 0 0 1 2 3\nH 0 0 1 -1 -2 -3\n"
    )
    (frame,) = read(SourceConfig(path=str(path), **options))
    return frame


@pytest.mark.parametrize("gap", ["\n", "\n\n\n", "  \n"])
def test_f1_blank_lines_between_frames_are_skipped(
    make_frames: Callable[..., Any], tmp_path: Path, gap: str
) -> None:
    frames = make_frames(5)
    path = tmp_path / "f.xyz"
    texts = []
    for atoms in frames:
        ase.io.write(path, atoms)
        texts.append(path.read_text())
    path.write_text(gap + texts[0] + texts[1] + gap + gap.join(texts[2:]) + gap)
    found = list(read(SourceConfig(path=str(path))))
    assert [f.number for f in found] == [0, 1, 2, 3, 4]
    assert all(np.array_equal(f.positions, a.positions.round(8)) for f, a in zip(found, frames, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], r"frame 1 \(line 6\): must have 3 atoms and a comment line, got the end"),
        (lambda lines: [*lines[:5], "text", *lines[5:]], r"frame 1 \(line 6\): .* got 'text'"),
        (lambda lines: [*lines, "3"], r"frame 2 \(line 11\): must have 3 atoms"),
        (lambda lines: [*lines[:4], "H 0 0", *lines[5:]], r"frame 0 \(line 1\): must be readable by ASE"),
    ],
)
def test_f1_what_is_no_frame_is_an_error_with_its_line(tmp_path: Path, change: Any, message: str) -> None:
    lines = ["3", "Properties=species:S:1:pos:R:3", "O 0 0 0", "H 0 0 1", "H 0 1 0"] * 2
    path = tmp_path / "f.xyz"
    path.write_text("\n".join(lines) + "\n")
    assert len(list(read(SourceConfig(path=str(path))))) == 2
    path.write_text("\n".join(change(lines)) + "\n")
    with pytest.raises(DataError, match=message):
        list(read(SourceConfig(path=str(path))))


def test_cell_vectors_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "f.xyz"
    one = "1\nvectors\nH 0 0 0\nVEC1 5 0 0\nVEC2 0 6 0\nVEC3 0 0 7\n"
    path.write_text(one + "\n" + one)
    frames = list(read(SourceConfig(path=str(path))))
    assert [np.diag(f.cell).tolist() for f in frames] == [[5, 6, 7]] * 2


@pytest.mark.parametrize("key", ["energy", "forces"])
def test_f17_labels_that_are_nan_throughout_are_absent(
    make_frames: Callable[..., Any], tmp_path: Path, key: str
) -> None:
    frames = make_frames(3)
    results = frames[2].calc.results
    results[key] = np.full_like(results[key], np.nan)
    ase.io.write(tmp_path / "nan.xyz", frames)
    found = list(read(SourceConfig(path=str(tmp_path / "nan.xyz"))))
    assert np.isnan(getattr(found[2], key)).all()
    assert np.isfinite(getattr(found[1], key)).all()


def test_one_nan_among_numbers_is_an_error(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(3)
    frames[2].calc.results["forces"][1] = np.nan
    ase.io.write(tmp_path / "nan.xyz", frames)
    with pytest.raises(DataError, match=r"nan.xyz, frame 2, key 'forces' must be finite, got \[nan"):
        list(read(SourceConfig(path=str(tmp_path / "nan.xyz"))))


def test_f18_forces_of_one_atom_are_zero(tmp_path: Path) -> None:
    path = tmp_path / "iso.xyz"
    path.write_text('1\nProperties=species:S:1:pos:R:3 energy=-0.5 pbc="F F F"\nH 0 0 0\n')
    (frame,) = read(SourceConfig(path=str(path)))
    assert frame.forces.tolist() == [[0.0, 0.0, 0.0]]
    (frame,) = read(SourceConfig(path=str(path), forces=None))
    assert np.isnan(frame.forces).all()


@pytest.mark.parametrize("key", ["stress", "virial", "REF_stress"])
@pytest.mark.parametrize("form", ['"{}"', "[{}]", "{{{}}}"])
def test_f19_six_components_are_voigt(tmp_path: Path, key: str, form: str) -> None:
    six = form.format("0.1, 0.2, 0.3, 0.4, 0.5, 0.6" if form[0] == "[" else "0.1 0.2 0.3 0.4 0.5 0.6")
    options = {"stress": key} if key == "REF_stress" else {}
    frame = one_frame(tmp_path / "v.xyz", f"energy=-1 {key}={six}", **options)
    expected = np.array([[0.1, 0.6, 0.5], [0.6, 0.2, 0.4], [0.5, 0.4, 0.3]])
    assert np.allclose(frame.stress, -expected / 64.0 if key == "virial" else expected)


def test_f11_contradicting_stress_and_virial_are_an_error(tmp_path: Path) -> None:
    path, stress = tmp_path / "f.xyz", 'stress="0.1 0 0 0 0.2 0 0 0 0.3"'
    agree = 'virial="-6.4 0 0 0 -12.8 0 0 0 -19.2"'
    assert np.allclose(one_frame(path, f"{stress} {agree}").stress, np.diag([0.1, 0.2, 0.3]))
    wrong = 'virial="6.4 0 0 0 12.8 0 0 0 19.2"'
    with pytest.raises(DataError, match=r"frame 0, keys 'stress' and 'virial' must agree"):
        one_frame(path, f"{stress} {wrong}")
    assert np.allclose(one_frame(path, f"{stress} {wrong}", stress=None).stress, -np.diag([0.1, 0.2, 0.3]))


def test_f11_stresses_have_a_scale(tmp_path: Path) -> None:
    frame = one_frame(
        tmp_path / "f.xyz", 'kbar="16 0 0 0 16 0 0 0 16"', stress="kbar", stress_scale=6.241509e-4
    )
    assert np.allclose(frame.stress, 16 * 6.241509e-4 * np.eye(3))


def test_virial_is_minus_volume_times_stress(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    atoms = make_frames(1, periodic=True)[0]
    stress = atoms.get_stress(voigt=False)
    atoms.info["w"] = -stress * atoms.get_volume()
    del atoms.calc.results["stress"]
    ase.io.write(tmp_path / "w.xyz", atoms)
    (frame,) = read(SourceConfig(path=str(tmp_path / "w.xyz"), virial="w"))
    assert np.allclose(frame.stress, stress, atol=1e-8)


def test_take_and_shuffle(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    ase.io.write(tmp_path / "f.xyz", make_frames(10))

    def indices(**options: Any) -> list[int]:
        return [f.number for f in read(SourceConfig(path=str(tmp_path / "f.xyz"), **options))]

    assert indices(take="2:5") == [2, 3, 4]
    a, b = indices(shuffle=1, take=":6"), indices(shuffle=1, take="6:")
    assert sorted(a + b) == list(range(10))
    assert a != list(range(6))
    with pytest.raises(ValueError, match=r"take must be a slice"):
        indices(take="half")


@pytest.mark.parametrize("real", [False, True], ids=["example", "real"])
def test_spice_files(request: pytest.FixtureRequest, real: bool) -> None:
    spice_data = pytest.importorskip("spice_data")
    path = spice_data.example_path()
    if real:
        path = request.getfixturevalue("shared_data") / "spice" / "real_spice_1.1.4_slice.hdf5"
    frames = list(read(SourceConfig(path=str(path), take=":4")))
    assert len(frames) == 4
    assert all(np.isfinite(f.forces).all() and np.isfinite(f.energy) and not f.pbc.any() for f in frames)
    subsets = {f.subset for f in read(SourceConfig(path=str(path)))}
    assert subsets and not list(read(SourceConfig(path=str(path), exclude=tuple(subsets))))


def test_spice_files_and_stores_are_read_alike(tmp_path: Path) -> None:
    spice_data = pytest.importorskip("spice_data")
    source, store = spice_data.example_path(), tmp_path / "e.store"
    spice_data.convert(source, str(store)).close()

    def frames_of(path: Any, **options: Any) -> list[Any]:
        return list(read(SourceConfig(path=str(path), **options)))

    whole = frames_of(source)
    assert [f.number for f in whole] == list(range(len(whole)))
    names = sorted({f.subset for f in whole})
    for options in ({"charge": 0}, {"charge": 1}, {"exclude": (names[0],), "shuffle": 3, "take": ":5"}):
        a, b = frames_of(source, **options), frames_of(store, **options)
        assert len(a) == len(b) and len(a) < len(whole)
        for x, y in zip(a, b, strict=True):
            assert np.array_equal(x.positions, whole[x.number].positions)
            assert np.allclose(x.positions, y.positions, atol=1e-5) and x.subset == y.subset
            assert x.energy == pytest.approx(y.energy)
    assert len(a) == min(5, sum(f.subset != names[0] for f in whole))
