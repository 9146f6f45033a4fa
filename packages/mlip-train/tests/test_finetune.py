"""Fine-tuning: frozen parameters, energy shifts, new elements."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch

import localgraph
from mlip_train import TrainConfig, fit, from_plain
from mlip_train.training.finetune import with_elements
from mlip_train.training.prepare import prepare

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")


def run(plain: dict[str, Any], **changes: Any) -> Any:
    return fit(from_plain(TrainConfig, {**plain, **changes}))


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


def test_f26_labels_of_another_level_are_reported(
    toy: Any, plain_run: dict[str, Any], tmp_path: Path
) -> None:
    start = toy({"type_names": ["H", "O"], "cutoff": 4.0, "energy_shifts": [-1009.0, -1012.0]})
    localgraph.save_model(tmp_path / "start.safetensors", start)
    plain = plain_run | {"model": {"start_from": str(tmp_path / "start.safetensors")}}
    with pytest.warns(
        UserWarning, match=r"labels differ .* by \d{3,4}(\.\d+)? eV per atom .* model.refit_energies: true"
    ):
        prepare(from_plain(TrainConfig, plain))
    plain["model"]["refit_energies"] = True
    shifts = prepare(from_plain(TrainConfig, plain)).model.shifts
    assert abs(float(2 * shifts[0] + shifts[1]) / 3 + 10.0) < 2.0
