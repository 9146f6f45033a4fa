"""The run of a configuration with nequip-allegro's model and its train-time compile, then ours from the same weights.

    python -m benchmarks.accuracy.nequip_allegro benchmarks/accuracy/acac.yaml output=reference stop.seconds=300

Data, batches, loss, optimizer, moving average, validation and trainer are the same on both sides; only the step
differs. The initial weights are written to ``reference/start.safetensors``, from which our run starts, in
``reference/ours``. ``metrics.csv`` has the learning curve with the seconds of training, ``reference.json`` those of
nequip-allegro's compilation, which are not among them.
Where the loss weighs stress all frames must be periodic, elsewhere none. Needs nequip-allegro,
allegro-model, mlip-train and, for SPICE, spice-data together.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from benchmarks.systems import reference_model
from nequip.data import AtomicDataDict as Keys

import localgraph
from allegro_model.nequip import from_nequip
from mlip_train._fit import fit
from mlip_train.config import TrainConfig, load_config
from mlip_train.data.batches import Batch
from mlip_train.data.loader import make_loader
from mlip_train.steps.eager import StepResult
from mlip_train.steps.loss import Prediction, loss_terms
from mlip_train.training.callbacks import write_csv
from mlip_train.training.module import TrainingModule
from mlip_train.training.prepare import prepare
from mlip_train.training.trainer import make_trainer


class ReferenceStep:
    """A step of nequip-allegro's model."""

    def __init__(self, model: Any, loss: Any):
        self.model, self.loss, self.with_stress = model, loss, bool(loss.stress)

    def prediction(self, batch: Batch) -> Prediction:
        """Energies and forces; stresses where the loss weighs them, for which every frame must be periodic."""
        data = {
            Keys.POSITIONS_KEY: batch.positions,
            Keys.EDGE_INDEX_KEY: batch.edge_index,
            Keys.ATOM_TYPE_KEY: batch.types,
            Keys.BATCH_KEY: batch.frame,
            Keys.NUM_NODES_KEY: batch.atoms.long(),
        }
        if self.with_stress:
            data |= {Keys.CELL_KEY: batch.cells, Keys.EDGE_CELL_SHIFT_KEY: batch.shifts.double()}
        out = self.model(data)
        stress = (
            out[Keys.STRESS_KEY].double() if self.with_stress else batch.stress.new_zeros(batch.stress.shape)
        )
        return Prediction(out[Keys.TOTAL_ENERGY_KEY].flatten().double(), out[Keys.FORCE_KEY].double(), stress)

    def __call__(self, batch: Batch, coefficients: torch.Tensor) -> StepResult:
        """Loss and predictions of training frames."""
        prediction = self.prediction(batch)
        terms = loss_terms(self.loss, batch, prediction)
        detached = Prediction(*(t.detach() for t in prediction))
        return StepResult((coefficients * terms).sum(), terms.detach(), detached)

    def predict(self, batch: Batch) -> Prediction:
        """Predictions of validation frames."""
        with torch.enable_grad():
            return Prediction(*(t.detach() for t in self.prediction(batch)))


class Curve(pl.Callback):
    """Writes the learning curve."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """One more row."""
        module.finish_epoch()
        write_csv(self.path, module.history)


def train_reference(config: TrainConfig) -> None:
    """Train nequip-allegro's model as configured."""
    torch.set_num_threads(config.hardware.threads or 1)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    prepared = prepare(config)
    assert prepared.validation is not None
    ours = prepared.model.config
    localgraph.save_model(folder / "start.safetensors", from_nequip(reference_model(ours, config.seed)))
    model = reference_model(ours, config.seed, "compile").train()
    step = ReferenceStep(model, config.loss)
    weights = torch.tensor([1.0, 1.0, float(step.with_stress)], dtype=torch.float64)
    start = time.perf_counter()
    for batch, _ in zip(make_loader(prepared.train), range(2), strict=False):
        step(batch, weights).loss.backward()  # compiles
    step.predict(next(iter(make_loader(prepared.validation))))
    seconds = {"compile_s": round(time.perf_counter() - start, 1)}
    (folder / "reference.json").write_text(json.dumps(seconds) + "\n")
    model.zero_grad()
    module = TrainingModule(model, config, prepared.train, prepared.validation, step=step)
    make_trainer(config, config.stop.epochs, [Curve(folder / "metrics.csv")]).fit(module)


def main() -> None:
    """Train the reference here, and ours in a process of its own, which nequip's global state does not touch."""
    if sys.argv[1] == "--ours":
        fit(load_config(sys.argv[2], sys.argv[3:]))
        return
    config = load_config(sys.argv[1], sys.argv[2:])
    train_reference(config)
    folder = Path(config.output)
    changes = [f"output={folder / 'ours'}", f"model.start_from={folder / 'start.safetensors'}"]
    command = [sys.executable, "-m", "benchmarks.accuracy.nequip_allegro", "--ours", *sys.argv[1:], *changes]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
