"""Everything before the first step: data, split, model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

import localgraph
from mlip_train import TrainConfig, fit, from_plain
from mlip_train.training.prepare import prepare
from spice_data import DataError


def test_frames_of_one_atom(
    toy: Any, plain_run: dict[str, Any], make_frames: Callable[..., Any], tmp_path: Path
) -> None:
    single = [Atoms("H", [[0, 0, 0]]), Atoms("O", [[0, 0, 0]])]
    dense = Atoms("H", cell=[2.0, 2.0, 2.0], pbc=True)
    for atoms, energy in zip([*single, dense], (-8.5, -11.5, -3.0), strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((1, 3)))
    ase.io.write(tmp_path / "single.xyz", [*single, *make_frames(6), dense])
    data = {"train": [{"path": str(tmp_path / "single.xyz")}], "validation_fraction": 0.5, "isolated": "keep"}
    plain = plain_run | {"data": data, "statistics": {"energy_shifts": "isolated"}}
    for seed in range(8):
        prepared = prepare(from_plain(TrainConfig, plain | {"seed": seed}))
        assert prepared.statistics.energy_shifts.tolist() == [-8.5, -11.5]
        assert {0, 1} <= set(prepared.train.rows.tolist())


def test_sources_without_frames_and_test_frames_above_the_budget(
    toy: Any, plain_run: dict[str, Any], make_frames: Callable[..., Any], tmp_path: Path
) -> None:
    source = plain_run["data"]["train"][0]
    with pytest.raises(ValueError, match=r"data must contain at least one frame, got none from"):
        prepare(from_plain(TrainConfig, plain_run | {"data": {"train": [source | {"take": ":0"}]}}))
    (tmp_path / "empty.xyz").write_text("")
    empty = plain_run | {"data": {"train": [{"path": str(tmp_path / "empty.xyz")}]}}
    empty["model"] = {"name": "allegro", "config": {"cutoff": 4.0}}
    with pytest.raises(DataError, match=r"empty.xyz' must have at least one frame"):
        prepare(from_plain(TrainConfig, empty))
    large = max(make_frames(40), key=len)
    doubled = Atoms(large.numbers.tolist() * 2, np.concatenate([large.positions, large.positions + 20.0]))
    doubled.calc = SinglePointCalculator(doubled, energy=0.0, forces=np.zeros((len(doubled), 3)))
    ase.io.write(tmp_path / "test.xyz", doubled)
    data = plain_run["data"] | {"test": [{"path": str(tmp_path / "test.xyz")}]}
    with pytest.raises(ValueError, match=r"batch.atoms must hold the largest frame.*test.xyz"):
        prepare(from_plain(TrainConfig, plain_run | {"data": data, "batch": {"atoms": len(large)}}))


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")


def run(plain: dict[str, Any], **changes: Any) -> Any:
    return fit(from_plain(TrainConfig, {**plain, **changes}))


def test_bad_data_is_reported_before_training(
    toy: Any, plain_run: dict[str, Any], make_frames: Any, tmp_path: Path
) -> None:
    frames = make_frames(6)
    del frames[4].calc.results["forces"]
    ase.io.write(tmp_path / "part.xyz", frames)
    plain = copy.deepcopy(plain_run)
    plain["data"]["train"][0]["path"] = str(tmp_path / "part.xyz")
    with pytest.raises(
        ValueError, match=r"part.xyz, frame 4, key 'forces' must be present where loss.forces is not zero"
    ):
        run(plain)
    plain["data"]["partial_labels"] = True
    assert len(run(plain).history) == 2
    with pytest.raises(ValueError, match=r"data.train\[0\].stress or data.train\[0\].virial must be the key"):
        run(plain_run, output=str(tmp_path / "stress"), stages=[{"epoch": 1, "stress": 1.0}])
    with pytest.raises(ValueError, match=r"model.config.cutoff must be a length in Å"):
        run(plain_run, output=str(tmp_path / "model"), model={"name": "toy"})
    with pytest.raises(ValueError, match=r"data.train must contain at least one source"):
        run(plain_run, output=str(tmp_path / "none"), data={})


def test_unknown_model(plain_run: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"model.name must be one of the registered models"):
        run(plain_run, model={"name": "nobody", "config": {"cutoff": 4.0}})


def source_of(frames: Any, path: Path, renamed: dict[str, str], **options: Any) -> dict[str, Any]:
    """Plain source of frames whose labels are renamed in the file."""
    for atoms in frames:
        for old, new in renamed.items():
            value = atoms.calc.results.pop(old)
            (atoms.arrays if old == "forces" else atoms.info)[new] = value
    ase.io.write(path, frames)
    return {"path": str(path), **options}


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("label", ["energy", "forces"])
def test_f2_a_label_that_no_frame_of_a_source_has_is_refused(
    toy: Any,
    plain_run: dict[str, Any],
    make_frames: Callable[..., Any],
    tmp_path: Path,
    partial: bool,
    label: str,
) -> None:
    good = plain_run["data"]["train"][0]
    source = source_of(make_frames(6), tmp_path / "ref.xyz", {label: f"REF_{label}"})
    plain = plain_run | {"data": {"train": [good, source], "partial_labels": partial}}
    with pytest.raises(
        ValueError,
        match=rf"ref.xyz: data.train\[1\].{label} must be the key of a label of the file, as loss.{label} is not 0, "
        rf"got '{label}'; keys there: \[.*'REF_{label}'.*\] \(did you mean 'REF_{label}'\?\)",
    ):
        prepare(from_plain(TrainConfig, plain))
    plain["data"]["train"][1] = source | {label: f"REF_{label}"}
    assert prepare(from_plain(TrainConfig, plain)).statistics.frames == 41
    plain["data"]["train"][1] = source | {label: None}
    assert prepare(from_plain(TrainConfig, plain)).statistics.frames == 41
    plain["data"]["train"] = [source | {label: None}]
    with pytest.raises(
        ValueError, match=rf"loss.{label} must be 0 where no frame of data.train has this label"
    ):
        prepare(from_plain(TrainConfig, plain))


def test_f17_missing_labels_need_partial_labels(
    toy: Any, plain_run: dict[str, Any], make_frames: Callable[..., Any], tmp_path: Path
) -> None:
    frames = make_frames(6)
    frames[3].calc.results["energy"] = np.nan
    ase.io.write(tmp_path / "nan.xyz", frames)
    data = {"train": [{"path": str(tmp_path / "nan.xyz")}]}
    with pytest.raises(ValueError, match=r"nan.xyz, frame 3, key 'energy' must be present .*1 of 6 frames"):
        prepare(from_plain(TrainConfig, plain_run | {"data": data}))
    prepare(from_plain(TrainConfig, plain_run | {"data": data | {"partial_labels": True}}))


def test_f18_isolated_atoms_give_energy_shifts_without_options(
    toy: Any, plain_run: dict[str, Any], make_frames: Callable[..., Any], tmp_path: Path
) -> None:
    atoms = '1\nProperties=species:S:1:pos:R:3 energy={} config_type=IsolatedAtom pbc="F F F"\n{} 0 0 0\n'
    ase.io.write(tmp_path / "f.xyz", make_frames(6))
    text = (tmp_path / "f.xyz").read_text()
    (tmp_path / "f.xyz").write_text(text + atoms.format(-8.5, "H") + atoms.format(-11.5, "O"))
    plain = plain_run | {"data": {"train": [{"path": str(tmp_path / "f.xyz")}]}}
    plain["statistics"] = {"energy_shifts": "isolated"}
    prepared = prepare(from_plain(TrainConfig, plain))
    assert prepared.statistics.energy_shifts.tolist() == [-8.5, -11.5]
    with pytest.raises(DataError, match=r"f.xyz', frame 6, positions must give at least one neighbor"):
        prepare(from_plain(TrainConfig, plain | {"statistics": {}}))


def test_f20_two_frames_leave_one_for_validation(
    toy: Any, plain_run: dict[str, Any], make_frames: Callable[..., Any], tmp_path: Path
) -> None:
    ase.io.write(tmp_path / "two.xyz", make_frames(2))
    data = {"train": [{"path": str(tmp_path / "two.xyz")}], "validation_fraction": 0.1}
    prepared = prepare(from_plain(TrainConfig, plain_run | {"data": data}))
    assert prepared.validation is not None and len(prepared.validation.rows) == 1
    data["validation_fraction"] = 0.0
    assert prepare(from_plain(TrainConfig, plain_run | {"data": data})).validation is None


@pytest.mark.filterwarnings("ignore:labels differ")  # of untrained weights
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"config": {"cutoff": 6.0}},
            r"model.config.cutoff must be that of model.start_from \(4.0\), got 6.0",
        ),
        ({"config": {"l_max": 3}}, r"model.config.l_max must be that of model.start_from \(None\), got 3"),
        ({"name": "nonsense"}, "model.name must be that of model.start_from"),
        ({"start_from": "none.safetensors"}, "model.start_from must be an existing model file"),
    ],
)
def test_f10_options_of_a_start_model_are_its_own(
    toy: Any, plain_run: dict[str, Any], tmp_path: Path, model: dict[str, Any], message: str
) -> None:
    localgraph.save_model(
        tmp_path / "model.safetensors",
        toy({"type_names": ["H", "O"], "cutoff": 4.0, "energy_shifts": [-9.0, -12.0]}),
        {},
    )
    start = {"start_from": str(tmp_path), "config": {"cutoff": 4}}
    prepare(from_plain(TrainConfig, plain_run | {"model": start}))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(from_plain(TrainConfig, plain_run | {"model": start | model}))


def test_f11_implausible_stresses_are_reported(
    toy: Any,
    plain_run: dict[str, Any],
    make_frames: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    frames = make_frames(5, periodic=True)
    for atoms in frames:
        atoms.info["kbar"] = np.diag([10.0, 10.0, -16.0])
    ase.io.write(tmp_path / "kbar.xyz", frames)
    source = {"path": str(tmp_path / "kbar.xyz"), "stress": "kbar", "virial": None}
    plain = plain_run | {"data": {"train": [source]}, "loss": {"stress": 1.0}}
    prepared = prepare(from_plain(TrainConfig, plain))
    message = "kbar.xyz, frame 0: stress of 16 eV/Å³ (2563 GPa); set stress_unit"
    assert message in caplog.text and message in prepared.findings[0]
    plain["data"]["train"][0]["stress_unit"] = "kbar"
    assert not prepare(from_plain(TrainConfig, plain)).findings


def test_elements_without_frames_are_reported(
    toy: Any, plain_run: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = plain_run["model"]["config"] | {"type_names": ["H", "C", "O", "S"]}
    prepare(from_plain(TrainConfig, plain_run | {"model": {"name": "toy", "config": config}}))
    assert "elements of the model without training frames: C, S" in caplog.text
