"""Runs beside published errors: units, what is named, and folders that are no data set of the publications."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read as read_frames
from ase.io import write
from benchmarks.accuracy.literature import PUBLISHED, apart, draw, read, rows_of
from benchmarks.accuracy.unseen import unseen
from benchmarks.accuracy.xtb_frames import trained_on
from benchmarks.common import ROOT


@pytest.fixture
def folder(tmp_path):
    """A run of AcAc that was stopped on its way."""
    run = tmp_path / "acac"
    run.mkdir()
    keys = ("model", "data", "batch", "optimizer", "schedule", "ema", "loss")
    (run / "run.json").write_text(json.dumps(dict.fromkeys(keys) | {"stop": {"steps": 1000}}))
    with (run / "metrics.csv").open("w") as file:
        columns = ["step", "seconds", "validation/energy_per_atom_rmse", "validation/forces_rmse"]
        writer = csv.writer(file)
        writer.writerows([columns, [90, 3.2, 1e-3, 0.05], [180, 6.4, 2e-4, 0.02]])
    return run


def test_errors_are_of_the_whole_molecule_and_progress_is_named(folder):
    record = read(folder)
    assert (record["steps"], record["planned"], record["seconds"]) == (180, 1000, 6)
    assert record["parts"] == {"validation": {"energy, meV": 3.0, "forces, meV/Å": 20.0}}
    assert record["curve"] == [[90, 3.2, 1.0, 50.0], [180, 6.4, 0.2, 20.0]]
    ours, *theirs = rows_of({"acac": record})
    assert ours[1:3] == ["allegro-model", "validation frames"] and "180 of 1,000 steps" in ours[-1]
    assert [row[1] for row in theirs] == list(PUBLISHED["acac"][3])


def test_final_errors_replace_those_of_the_last_epoch(folder):
    overall = {"energy_per_atom_rmse": 1e-4, "forces_rmse": 0.01}
    (folder / "errors.json").write_text(json.dumps({"test": {"overall": overall}}))
    assert read(folder)["parts"] == {"test": {"energy, meV": 1.5, "forces, meV/Å": 10.0}}
    subsets = {"300 K": overall, "600 K": {**overall, "forces_rmse": 0.03}}
    (folder / "errors.json").write_text(json.dumps({"test": {"overall": overall, "subsets": subsets}}))
    found = read(folder)["parts"]
    assert list(found) == ["300 K test", "600 K test"] and found["600 K test"]["forces, meV/Å"] == 30.0


def test_steps_and_seconds_of_pretraining_are_named(folder):
    """The row names both runs, and comes after the run without and before the published errors."""
    before = folder.rename(folder.with_name("acac_xtb"))
    run = folder.with_name("acac_pretrained")
    shutil.copytree(before, run)
    plain = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(plain | {"model": {"start_from": str(before)}}))
    record = read(run)
    assert record["pretraining"] == {"steps": 180, "planned": 1000, "seconds": 6}
    shutil.copytree(before, folder)
    rows = rows_of({"acac_pretrained": record, "acac": read(folder)})
    assert [row[1] for row in rows[:2]] == ["allegro-model", "allegro-model, pretrained"]
    assert rows[0][-1] == "180 of 1,000 steps, 6 s"
    assert rows[1][-1] == "180 of 1,000 steps, 6 s, after 180 of 1,000 steps, 6 s"
    assert [row[1] for row in rows[2:]] == list(PUBLISHED["acac"][3]) and {row[0] for row in rows} == {"acac"}


def test_curves_and_published_errors_are_drawn(folder, tmp_path, monkeypatch):
    """Seconds and held-out force errors of every data set, and every published error with its name and value."""
    plt = pytest.importorskip("matplotlib.pyplot")
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    slower = read(folder) | {"curve": [[1, 10.0, 2.0, 200.0], [2, 30.0, 1.0, 90.0], [3, 60.0, 0.5, 40.0]]}
    after = read(folder) | {"pretraining": {"steps": 100, "seconds": 100}}
    draw({"acac": read(folder), "3bpa": slower, "acac_pretrained": after}, tmp_path / "curves.png")
    monkeypatch.undo()
    (axis,) = figures[0].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
    assert lines["acac (RMSE)"] == [[3.2, 50.0], [6.4, 20.0]]
    assert lines["3bpa (RMSE)"] == [[10.0, 200.0], [30.0, 90.0], [60.0, 40.0]]
    assert lines["acac (RMSE), pretrained"] == [[103.2, 50.0], [106.4, 20.0]]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    marked = {line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"}
    forces = {
        f"{name}: {model}, {e[1]:g}": e[1]
        for name in ("acac", "3bpa")
        for model, e in PUBLISHED[name][3].items()
    }
    assert marked == set(forces.values()) and {text.get_text() for text in axis.texts} == set(forces)
    low, high = axis.get_ylim()
    assert all(low < y < high for y in marked)
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    plt.close(figures[0])


def test_labels_that_would_overlap_are_moved_up():
    assert apart([5.9, 5.1, 20.0, 5.1], 1.25) == [6.375, 5.1, 20.0, 5.1]
    assert apart([], 1.25) == []


def test_curves_of_a_record_are_drawn_and_not_recorded_again(folder, tmp_path):
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-m", "benchmarks.accuracy.literature"]
    made, picture = tmp_path / "record.json", tmp_path / "record.png"
    subprocess.run([*command, str(folder), "--json", str(made)], cwd=ROOT, check=True)
    subprocess.run([*command, str(made), "--figure", str(picture)], cwd=ROOT, check=True)
    assert picture.stat().st_size > 10_000
    again = subprocess.run(
        [*command, str(made), "--json", str(made)], cwd=ROOT, capture_output=True, text=True
    )
    assert again.returncode == 2 and "--json must be given folders alone" in again.stderr


def test_command_refuses_other_folders(tmp_path):
    command = [sys.executable, "-m", "benchmarks.accuracy.literature", str(tmp_path / "mine")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "folders must be named as one of" in done.stderr


def test_frames_that_another_file_has_are_left_out():
    frames = [Atoms("CO", [[0, 0, 0], [0, 0, 1.1 + 0.1 * i]]) for i in range(4)]
    rounded = frames[1].copy()
    rounded.positions += 1e-7
    moved, renamed = frames[2].copy(), frames[3].copy()
    moved.positions[0, 0] -= 1e-3
    renamed.symbols = "CN"
    assert unseen(frames, [rounded, moved, renamed]) == [frames[0], *frames[2:]]


def test_frames_for_pretraining_start_at_training_frames_and_have_labels(tmp_path):
    """A trajectory from each training frame and from no other, the same with two workers; labels are GFN2-xTB's."""
    TBLite = pytest.importorskip("tblite.ase").TBLite
    water = [Atoms("OH2", [[0, 0, 0], [0, 0.76 + 0.01 * i, 0.59], [0, -0.76, 0.59]]) for i in range(4)]
    for i, atoms in enumerate(water):
        atoms.positions += 100.0 * i  # tells where a trajectory started
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((3, 3)))
    write(tmp_path / "all.xyz", water)
    train, held_out = ({"path": str(tmp_path / "all.xyz"), "take": take} for take in ("1:", ":1"))
    (tmp_path / "fit.yaml").write_text(json.dumps({"data": {"train": [train], "validation": [held_out]}}))
    command = [
        sys.executable,
        "-m",
        "benchmarks.accuracy.xtb_frames",
        str(tmp_path / "fit.yaml"),
        "--each",
        "2",
    ]
    made = {}
    for workers in (1, 2):
        output = tmp_path / f"{workers}.xyz"
        subprocess.run([*command, "--workers", str(workers), "--output", str(output)], cwd=ROOT, check=True)
        made[workers] = output.read_bytes()
    assert made[1] == made[2]
    frames = read_frames(tmp_path / "1.xyz", ":")
    assert [round(f.positions[0, 0] / 100) for f in frames] == [1, 1, 2, 2, 3, 3]
    assert all(abs(f.get_forces()).max() > 0.1 for f in frames)
    for frame in frames[::3]:
        energy, forces = frame.get_potential_energy(), frame.get_forces()
        frame.calc = TBLite(method="GFN2-xTB", verbosity=0)
        assert frame.get_potential_energy() == pytest.approx(energy, abs=1e-6)
        np.testing.assert_allclose(frame.get_forces(), forces, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "validation", "message"),
    [
        ({}, False, "data.validation of .* must name files"),
        ({"pbc": True, "cell": [9, 9, 9]}, True, r"frame 1, .* pbc \[True, True, True\]"),
        ({"numbers": [8, 1, 2]}, True, r"frame 1, .* 11 electrons"),
    ],
)
def test_frames_for_pretraining_refuse_what_they_cannot_label(tmp_path, change, validation, message):
    """Held-out frames among the training frames, periodic structures, open shells."""
    water = [Atoms("OH2", [[0, 0, 0], [0, 0.76, 0.59], [0, -0.76, 0.59]]) for _ in range(2)]
    for name, value in change.items():
        setattr(water[1], name, value)
    for atoms in water:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((3, 3)))
    write(tmp_path / "all.xyz", water)
    source = [{"path": str(tmp_path / "all.xyz")}]
    data = {"train": source} | ({"validation": source} if validation else {})
    (tmp_path / "fit.yaml").write_text(json.dumps({"data": data}))
    with pytest.raises(ValueError, match=message):
        trained_on(tmp_path / "fit.yaml")
