"""Whole runs: files left behind, resumption after kill -9, fine-tuning, bad input, the command line."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
import yaml

import localgraph
from mlip_train import TrainConfig, TrainingModule, __version__, dry_run, fit, from_plain
from mlip_train.cli import main
from mlip_train.config import ScheduleConfig, StageConfig
from mlip_train.data.sources import DataError
from mlip_train.steps.eager import EagerStep
from mlip_train.training import checkpoint
from mlip_train.training.average import MovingAverage
from mlip_train.training.finetune import with_elements
from mlip_train.training.prepare import prepare
from mlip_train.training.schedule import Schedule

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")


def run(plain: dict[str, Any], **changes: Any) -> Any:
    return fit(from_plain(TrainConfig, {**plain, **changes}))


def test_fit_learns_and_leaves_its_files(toy: Any, plain_run: dict[str, Any]) -> None:
    result = run(
        plain_run, stop={"epochs": 12}, data={**plain_run["data"], "test": plain_run["data"]["train"]}
    )
    folder = Path(plain_run["output"])
    for name in (
        "model.safetensors",
        "checkpoint.safetensors",
        "metrics.csv",
        "report.html",
        "errors.json",
        "run.json",
    ):
        assert (folder / name).stat().st_size > 0
    for name in ("learning_curves", "parity_validation", "parity_test", "elements_test"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    errors = json.loads((folder / "errors.json").read_text())["test"]
    assert errors["overall"]["forces_rmse"] < 0.8 * errors["baseline"]["overall"]["forces_rmse"]
    page = (folder / "report.html").read_text()
    assert "http://" not in page and "https://" not in page and page.count("data:image/png;base64,") == 5
    model, metadata = localgraph.load_model(result.model)
    assert metadata["training"]["elements"] == ["H", "O"]
    assert model.to_config()["avg_num_neighbors"] == pytest.approx(
        metadata["training"]["statistics"]["avg_num_neighbors"]
    )
    best = min(row["validation/loss"] for row in result.history)
    assert metadata["training"]["best"]["validation/loss"] == best
    forces = result.evaluations["validation"].tables["overall"]["forces_rmse"]
    assert any(row["validation/forces_rmse"] == pytest.approx(forces, rel=1e-9) for row in result.history)


SCRIPT = """
import importlib.util, json, os, signal, sys
import torch, localgraph
spec = importlib.util.spec_from_file_location("toys", sys.argv[1])
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
localgraph.model_class = localgraph.potential.model_class = lambda name: toys.ToyModel
from mlip_train import TrainConfig, TrainingModule, fit, from_plain
die = int(sys.argv[3])
if die:
    original = TrainingModule.training_step
    def training_step(self, batch, index):
        if self.steps == die:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, batch, index)
    TrainingModule.training_step = training_step
fit(from_plain(TrainConfig, json.loads(sys.argv[2])))
"""


@pytest.mark.slow
def test_killed_in_mid_epoch_resumes_to_the_same_numbers(plain_run: dict[str, Any], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    plain = copy.deepcopy(plain_run)
    plain |= {"ema": 0.95, "stages": [{"epoch": 2, "energy": 5.0, "lr": 0.003}]}
    plain["batch"]["accumulate"] = 2
    plain["stop"]["epochs"] = 4
    plain["optimizer"]["clip"] = 1.0
    plain["schedule"] = {"patience": 0}
    plain["logging"] |= {"checkpoint_steps": 1, "report": False}

    def start(name: str, die: int) -> int:
        text = json.dumps({**plain, "output": str(tmp_path / name)})
        conftest = str(Path(__file__).with_name("conftest.py"))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        return subprocess.run(
            [sys.executable, str(script), conftest, text, str(die)], env=environment
        ).returncode

    assert start("whole", 0) == 0
    for die in (3, 9):  # inside the first and the third epoch (4 steps each)
        assert start("broken", die) == -signal.SIGKILL
    assert start("broken", 0) == 0
    a, b = (
        np.genfromtxt(tmp_path / n / "metrics.csv", delimiter=",", names=True) for n in ("whole", "broken")
    )
    assert len(a) == 4
    for name in a.dtype.names:
        if name != "seconds":
            assert np.array_equal(a[name], b[name]), name
    x, y = (checkpoint.load(tmp_path / n / "checkpoint.safetensors") for n in ("whole", "broken"))
    assert all(torch.equal(x["model"][k], y["model"][k]) for k in x["model"])
    assert all(
        torch.equal(x["average"]["average"][k], y["average"]["average"][k]) for k in x["average"]["average"]
    )


def test_a_finished_run_does_nothing_again(toy: Any, plain_run: dict[str, Any]) -> None:
    first = run(plain_run)
    stamp = (Path(plain_run["output"]) / "checkpoint.safetensors").stat().st_mtime_ns
    again = run(plain_run)
    assert again.history == first.history
    assert (Path(plain_run["output"]) / "checkpoint.safetensors").stat().st_mtime_ns == stamp
    longer = run(plain_run, stop={"epochs": 3})
    assert longer.history[:2] == first.history
    assert len(longer.history) == 3
    with pytest.raises(ValueError, match=r"resume must be 'auto' or 'must' where a checkpoint exists"):
        run(plain_run, resume="never")


def test_truncated_checkpoint_is_refused(toy: Any, plain_run: dict[str, Any]) -> None:
    run(plain_run)
    path = Path(plain_run["output"]) / "checkpoint.safetensors"
    whole = path.read_bytes()
    for size in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(
            ValueError, match=r"required a complete checkpoint, got the damaged or foreign file"
        ):
            run(plain_run)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"checkpoint: required an existing checkpoint"):
        run(plain_run, resume="must")


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    tree = {
        "a": [1, 2.5, None, float("inf")],
        0: (True, "x"),
        "t": torch.arange(3),
        "empty": torch.zeros(0, 3),
    }
    checkpoint.save(tmp_path / "c", tree)
    back = checkpoint.load(tmp_path / "c")
    assert back["a"] == tree["a"] and back[0] == (True, "x")
    assert torch.equal(back["t"], tree["t"]) and back["empty"].shape == (0, 3)
    with pytest.raises(TypeError, match=r"checkpoint must hold plain data and tensors, got object"):
        checkpoint.save(tmp_path / "c", {"x": object()})
    assert checkpoint.load(tmp_path / "c")["a"] == tree["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_another_configuration_is_not_continued(
    toy: Any, plain_run: dict[str, Any], frames_file: Path, tmp_path: Path
) -> None:
    plain = plain_run | {"logging": {"progress": False, "report": False}}
    plain["data"] = {"train": plain["data"]["train"], "loaders": 0}
    first = run(plain)
    moved = tmp_path / "moved.xyz"
    moved.write_bytes(frames_file.read_bytes())
    data = plain["data"]
    free = {
        "data": data | {"train": [{"path": str(moved), "subset": "frames"}]},
        "stop": {"epochs": 2, "steps": 99},
    }
    assert run(plain, **free).history == first.history
    for changes, message in (
        (
            {"optimizer": {"lr": 1.0}},
            r"optimizer.lr \(0.01 in the checkpoint, now 1.0\); choose another output",
        ),
        (
            {"seed": 5, "loss": {"forces": 9.0}},
            r"values of loss.forces \(1.0 .* now 9.0\), seed \(0 .* now 5\)",
        ),
        ({"model": {"name": "toy", "config": {"cutoff": 4.0, "width": 6}}}, r"model.config.width \(None in"),
        ({"stages": [{"epoch": 1, "lr": 0.01}]}, r"stages\[0\].epoch \(None in the checkpoint, now 1\)"),
        (
            {"data": data | {"train": [{"path": str(moved), "take": ":30"}]}},
            "data.train must be the frames",
        ),
        (
            {"data": data | {"validation": data["train"]}},
            "data.validation must be the frames",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run(plain, **changes)


STOPS = [
    {"steps": 5},
    {"patience": 0, "epochs": 50},
    {"seconds": 1e-3, "epochs": 50},
    {"lr": 1e-6, "epochs": 50},
]


@pytest.mark.parametrize("stop", STOPS)
def test_stopping(toy: Any, plain_run: dict[str, Any], stop: dict[str, Any]) -> None:
    lr = {"lr": 1e-3 if "steps" in stop else 0.3}
    plain = plain_run | {"stop": stop, "optimizer": lr, "logging": {"progress": False, "report": False}}
    plain["schedule"] = {"patience": 0, "factor": 1e-9}
    result = run(plain)
    assert run(plain).history == result.history  # the same command again trains no further
    if "steps" in stop:
        assert result.history[-1]["step"] == 5
    elif "seconds" in stop:
        assert len(result.history) == 1
    elif "lr" in stop:
        assert len(result.history) < 50
    else:
        scores = [row["validation/loss"] for row in result.history]
        assert scores[-1] >= min(scores[:-1])
        assert len(scores) < 50


def test_fine_tuning(toy: Any, plain_run: dict[str, Any], frames_file: Path, tmp_path: Path) -> None:
    first = run(plain_run)
    frames = ase.io.read(frames_file, index=":")
    for atoms in frames:
        results = dict(atoms.calc.results)
        atoms.calc.results = results | {"energy": results["energy"] + 3.0 * (atoms.numbers == 8).sum()}
    ase.io.write(tmp_path / "shifted.xyz", frames)
    plain = copy.deepcopy(plain_run)
    plain["output"] = str(tmp_path / "tuned")
    plain["data"]["train"][0]["path"] = str(tmp_path / "shifted.xyz")
    plain["model"] = {"start_from": str(first.model), "freeze": ["pair"], "refit_energies": True}
    tuned = run(plain)
    a, b = (localgraph.load_model(m)[0] for m in (first.model, tuned.model))
    assert torch.equal(a.pair, b.pair)
    assert not torch.equal(a.density, b.density)
    moved = (b.shifts - a.shifts).detach().numpy()
    assert 2 * moved[0] + moved[1] == pytest.approx(3.0, abs=0.5)
    plain["model"]["freeze"] = ["pears"]
    plain["output"] = str(tmp_path / "other")
    with pytest.raises(ValueError, match=r"model.freeze must be a prefix of a parameter name"):
        run(plain)


def test_fine_tuning_with_a_new_element(toy: Any, plain_run: dict[str, Any], tmp_path: Path) -> None:
    first = run(plain_run)
    frames = ase.io.read(plain_run["data"]["train"][0]["path"], index=":")
    for k, atoms in enumerate(frames):
        results, carbon = dict(atoms.calc.results), k % 3 == 0
        if carbon:
            atoms.numbers[1] = 6
        atoms.calc.results = results | {"energy": results["energy"] - 1000.0 * carbon}
    ase.io.write(tmp_path / "carbon.xyz", frames)
    plain = copy.deepcopy(plain_run)
    plain["output"] = str(tmp_path / "tuned")
    plain["data"]["train"][0]["path"] = str(tmp_path / "carbon.xyz")
    plain["model"] = {"start_from": str(first.model), "add_elements": ["C"]}
    start, _ = localgraph.load_model(first.model)
    larger = with_elements(start, ["C"])
    old = ase.io.read(plain_run["data"]["train"][0]["path"], index="7")
    graph = localgraph.neighbors(torch.tensor(old.positions), 4.0)
    vectors = localgraph.edge_vectors(torch.tensor(old.positions), graph)
    types = torch.tensor([("H", "O").index(s) for s in old.get_chemical_symbols()])
    assert torch.equal(larger(vectors, graph.edge_index, types), start(vectors, graph.edge_index, types))
    tuned, _ = localgraph.load_model(run(plain).model)
    assert tuned.type_names == ("H", "O", "C")
    assert tuned.pair.shape[:2] == (3, 3)
    assert torch.equal(tuned.shifts[:2], start.shifts)
    moved = tuned.shifts[2] - tuned.shifts[0]  # carbon took the place of a hydrogen
    assert float(moved) == pytest.approx(-1000.0, abs=5.0)
    plain["model"]["add_elements"] = ["O"]
    plain["output"] = str(tmp_path / "other")
    with pytest.raises(ValueError, match=r"model.add_elements must be elements other than \['H', 'O'\]"):
        run(plain)


def test_fits_of_atomic_energies_move_no_more_than_they_must(
    toy: Any, plain_run: dict[str, Any], make_frames: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = toy({"type_names": ["H", "O"], "cutoff": 4.0, "energy_shifts": [-5.0, -5.0]})
    with torch.no_grad():
        model.shifts.copy_(torch.tensor([-9.0, -12.0]))  # as trained; the configuration still says -5
    localgraph.save_model(tmp_path / "start.safetensors", model)
    frames = [atoms for atoms in make_frames(40) if len(atoms) == 3]
    for atoms in frames:
        atoms.numbers[0] = 16
        atoms.calc.results["energy"] -= 10800.0
    ase.io.write(tmp_path / "s.xyz", frames)
    plain = copy.deepcopy(plain_run)
    plain["data"]["train"][0]["path"] = str(tmp_path / "s.xyz")
    for refit in (False, True):
        plain["model"] = {"start_from": str(tmp_path / "start.safetensors"), "add_elements": ["S"]}
        plain["model"]["refit_energies"] = refit
        shifts = prepare(from_plain(TrainConfig, plain)).model.shifts.numpy()
        assert np.abs(shifts[:2] - [-9.0, -12.0]).max() <= (0.1 if refit else 0.0)  # one composition
        assert shifts[2] == pytest.approx(-10812.0, abs=10.0)
    plain["model"] = {"start_from": str(tmp_path / "start.safetensors"), "refit_energies": True}
    plain["data"] = plain_run["data"]
    shifts = prepare(from_plain(TrainConfig, plain)).model.shifts.numpy()
    assert np.abs(shifts - [-9.0, -12.0]).max() < 2.0


def test_bad_data_is_reported_before_training(
    toy: Any, plain_run: dict[str, Any], make_frames: Any, tmp_path: Path
) -> None:
    frames = make_frames(6)
    del frames[4].calc.results["forces"]
    ase.io.write(tmp_path / "part.xyz", frames)
    plain = copy.deepcopy(plain_run)
    plain["data"]["train"][0]["path"] = str(tmp_path / "part.xyz")
    with pytest.raises(
        DataError, match=r"part.xyz, frame 4, key 'forces' must be present where loss.forces is not zero"
    ):
        run(plain)
    plain["data"]["partial_labels"] = True
    assert len(run(plain).history) == 2
    with pytest.raises(DataError, match=r"key 'stress' must be present where loss.stress is not zero"):
        run(plain_run, output=str(tmp_path / "stress"), stages=[{"epoch": 1, "stress": 1.0}])
    with pytest.raises(ValueError, match=r"model.config.cutoff must be a length in Å"):
        run(plain_run, output=str(tmp_path / "model"), model={"name": "toy"})
    with pytest.raises(ValueError, match=r"data.train must contain at least one source"):
        run(plain_run, output=str(tmp_path / "none"), data={})


def test_unknown_model(plain_run: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"model name: required one of the registered models"):
        run(plain_run, model={"name": "nobody", "config": {"cutoff": 4.0}})


def test_global_state_is_left_alone(toy: Any, plain_run: dict[str, Any]) -> None:
    def now() -> tuple[Any, ...]:
        return (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.initial_seed(),
        )

    torch.manual_seed(77)
    before = now()
    run(plain_run, hardware={"accelerator": "cpu", "threads": 1, "matmul_precision": "high"})
    assert now() == before


def test_command_line(
    toy: Any, plain_run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(plain_run))
    assert main(["fit", str(path), "--dry-run"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["elements"] == ["H", "O"]
    assert facts["training frames"] == 30 and facts["validation frames"] == 10
    assert not (Path(plain_run["output"]) / "metrics.csv").exists()
    assert main(["fit", str(path), "--optimizer.lr=0.02", "stop.epochs=1"]) == 0
    assert "baseline: element means" in capsys.readouterr().out
    assert main(["evaluate", plain_run["output"], plain_run["data"]["train"][0]["path"]]) == 0
    assert "forces RMSE, meV/Å" in capsys.readouterr().out
    errors = json.loads((Path(plain_run["output"]) / "evaluation.json").read_text())
    assert errors["frames"] == 40 and "baseline" in errors
    for what in (path, Path(plain_run["output"]), Path(plain_run["output"]) / "checkpoint.safetensors"):
        assert main(["info", str(what)]) == 0
        assert json.loads(capsys.readouterr().out)
    assert main(["fit", str(path), "optimizer.speed=1"]) == 2
    assert "optimizer.speed must be one of the keys" in capsys.readouterr().err
    assert main(["evaluate", plain_run["output"]]) == 2
    assert main(["fit", str(tmp_path)]) == 2
    assert "run must be an existing YAML file" in capsys.readouterr().err


def test_options_between_overrides(
    toy: Any, plain_run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = tmp_path / "run.yaml", tmp_path / "other"
    path.write_text(yaml.safe_dump(plain_run))
    for line in (["--dry-run", f"--output={other}", "seed=3"], [f"output={other}", "--dry-run", "--seed=3"]):
        assert main(["fit", str(path), *line]) == 0
        assert json.loads(capsys.readouterr().out)["parameters"] == 36
    assert (other / "cache").exists() and not Path(plain_run["output"]).exists()
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"mlip-train {__version__}\n"


def test_evaluate_reads_labels_as_the_run_did(
    toy: Any, plain_run: dict[str, Any], make_frames: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = make_frames(10)
    for atoms in frames:
        atoms.info["REF_energy"] = 2.0 * atoms.calc.results["energy"]
        atoms.arrays["REF_forces"] = 2.0 * atoms.calc.results["forces"]
        atoms.calc = None
    ase.io.write(tmp_path / "ref.xyz", frames)
    keys = {"energy": "REF_energy", "forces": "REF_forces", "energy_scale": 0.5, "force_scale": 0.5}
    data = {"train": [{"path": str(tmp_path / "ref.xyz"), **keys}], "loaders": 0}
    run(plain_run, data=data, output=str(tmp_path / "ref"))
    evaluate = ["evaluate", str(tmp_path / "ref")]
    assert main([*evaluate, "--output", str(tmp_path / "e"), str(tmp_path / "ref.xyz")]) == 0
    capsys.readouterr()
    errors = json.loads((tmp_path / "e" / "evaluation.json").read_text())["overall"]
    assert errors["energy_per_atom_rmse"] < 3.0
    assert main([*evaluate, plain_run["data"]["train"][0]["path"]]) == 2
    assert (
        "data must have frames with labels, got none under [{'energy': 'REF_energy'"
        in capsys.readouterr().err
    )


def test_dry_run_by_name(toy: Any, plain_run: dict[str, Any]) -> None:
    facts = dry_run(from_plain(TrainConfig, plain_run))
    assert facts["parameters"] == facts["trained parameters"] == 36
    assert facts["edges in the largest micro-batch"] > 0


def test_moving_average(toy: Any) -> None:
    model = torch.nn.Linear(2, 1)
    average = MovingAverage(model, 0.5)
    expected = model.weight.detach().clone()
    for n in range(1, 6):
        with torch.no_grad():
            model.weight.add_(1.0)
        average.update()
        d = min(0.5, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * model.weight.detach()
    kept = model.weight.detach().clone()
    with average.in_place():
        assert torch.allclose(model.weight, expected)
    assert torch.equal(model.weight, kept)
    with pytest.raises(ValueError, match=r"ema must be in \[0, 1\), got 1.0"):
        MovingAverage(model, 1.0)


def test_schedules() -> None:
    plateau = Schedule(
        ScheduleConfig(factor=0.5, patience=1, warmup=4), 1.0, (StageConfig(epoch=3, lr=0.2),), 100
    )
    assert [plateau.rate(s) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [plateau.end_epoch(m) for m in (3.0, 2.0, 2.5, 2.1)] == [True, True, False, False]
    assert plateau.rate(9) == 0.5
    plateau.begin_epoch(3)
    assert plateau.rate(9) == 0.2 and plateau.end_epoch(9.0)
    ramped = Schedule(ScheduleConfig(), 1.0, (StageConfig(epoch=2), StageConfig(epoch=4, ramp=3)), 100)
    assert [ramped.settled(epoch) for epoch in range(8)] == [False] * 6 + [True] * 2
    ramped.bad_epochs = 2
    for epoch, bad in ((1, 2), (3, 2), (6, 0)):
        ramped.begin_epoch(epoch)
        assert ramped.bad_epochs == bad
    cosine = Schedule(ScheduleConfig(name="cosine", minimum=0.1), 1.0, (), 100)
    assert [cosine.rate(s) for s in (0, 50, 100)] == pytest.approx([1.0, 0.55, 0.1])


@pytest.mark.parametrize(
    ("world", "accumulate", "steps"), [(1, 1, None), (2, 1, None), (2, 3, None), (2, 1, 3)]
)
def test_cosine_ends_with_the_run(
    toy: Any,
    plain_run: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    world: int,
    accumulate: int,
    steps: Any,
) -> None:
    plain = plain_run | {
        "schedule": {"name": "cosine", "minimum": 0.0},
        "stop": {"epochs": 2, "steps": steps},
    }
    config = from_plain(TrainConfig, plain | {"batch": {"frames": 4, "accumulate": accumulate}})
    prepared = prepare(config)
    module = TrainingModule(prepared.model, config, prepared.train, prepared.validation)
    monkeypatch.setattr("mlip_train.training.module._place", lambda: (world, 1))
    module.on_fit_start()
    taken = 2 * module.train_dataloader().total // accumulate  # of this process
    last = min(taken, steps or taken)
    assert module.schedule.rate(last) == 0.0 < module.schedule.rate(last - 1)


def test_scores_of_a_ramp_have_one_weight(toy: Any, plain_run: dict[str, Any]) -> None:
    stages = [{"epoch": 1, "energy": 40.0, "forces": 2.0, "ramp": 3}]
    stop, logging = {"epochs": 4, "patience": 0}, {"progress": False, "report": False}
    result = run(
        plain_run,
        stages=stages,
        stop=stop,
        logging=logging,
        optimizer={"lr": 1e-12},
        schedule={"minimum": 0.0},
    )
    assert len(result.history) == 4  # patience waits for the end of the ramp
    for row, (e, f) in zip(result.history, [(1, 1), (14, 4 / 3), (27, 5 / 3), (40, 2)], strict=True):
        final = (1, 1) if row["epoch"] == 0 else (40, 2)
        for part, (a, b) in (("train", (e, f)), ("validation", final)):
            rmse = row[f"{part}/energy_per_atom_rmse"], row[f"{part}/forces_rmse"]
            assert row[f"{part}/loss"] == pytest.approx(a * rmse[0] ** 2 + b * rmse[1] ** 2)


def test_a_loss_that_is_not_finite_stops_the_run(
    toy: Any, plain_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = plain_run | {"logging": {"progress": False, "report": False, "checkpoint_steps": 1}}
    original = EagerStep.__call__

    def broken(self: Any, batch: Any, coefficients: Any) -> Any:
        result = original(self, batch, coefficients)
        if 7 in batch.row:
            result.prediction.forces[batch.frame == batch.row.tolist().index(7)] = torch.nan
            return result._replace(loss=result.loss * torch.nan, terms=result.terms * torch.nan)
        return result

    monkeypatch.setattr(EagerStep, "__call__", broken)
    with pytest.raises(
        FloatingPointError, match=r"loss must be finite, got \[nan.* in a batch with .*frames.xyz, frame 7 \("
    ):
        run(plain)
    path = Path(plain["output"]) / "checkpoint.safetensors"
    if path.exists():  # the frame was not in the first batch
        state = checkpoint.load(path)
        assert all(torch.isfinite(v).all() for v in state["model"].values())
    monkeypatch.setattr(EagerStep, "__call__", original)
    assert len(run(plain).history) == 2


def test_weights_that_are_not_finite_are_not_saved(
    toy: Any, plain_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mlip_train.training.average.MovingAverage.update",
        lambda self: self.parameters["pair"].data.fill_(torch.inf),
    )
    with pytest.raises(FloatingPointError, match=r"step 1: weights must be finite, got others in 'pair'"):
        run(plain_run, logging={"progress": False, "checkpoint_steps": 1})
    assert not (Path(plain_run["output"]) / "checkpoint.safetensors").exists()


def test_stresses_that_are_not_trained_have_no_errors(
    toy: Any, plain_run: dict[str, Any], make_frames: Any, tmp_path: Path
) -> None:
    ase.io.write(tmp_path / "periodic.xyz", make_frames(8, periodic=True))
    data = plain_run["data"] | {"train": [{"path": str(tmp_path / "periodic.xyz")}]}
    for weight in (0.0, 1.0):
        output = str(tmp_path / f"stress{weight}")
        row = run(plain_run, data=data, loss={"stress": weight}, output=output).history[-1]
        assert any("stress" in name for name in row) == bool(weight)


def test_hardware_that_is_absent(toy: Any, plain_run: dict[str, Any]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(
        ValueError, match=r"hardware must be available on this machine, got accelerator 'gpu', devices 1"
    ):
        run(plain_run, hardware={"accelerator": "gpu"})


def test_tensorboard_by_name(toy: Any, plain_run: dict[str, Any]) -> None:
    pytest.importorskip("tensorboard")
    run(plain_run, logging={"progress": False, "report": False, "loggers": ["tensorboard"]})
    assert list((Path(plain_run["output"]) / "tensorboard").glob("events*"))


def test_time_is_counted_over_restarts(toy: Any, plain_run: dict[str, Any]) -> None:
    first = run(plain_run)
    time.sleep(0.05)
    longer = run(plain_run, stop={"epochs": 3})
    assert longer.history[2]["seconds"] > first.history[1]["seconds"]
