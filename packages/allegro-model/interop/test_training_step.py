"""One training step with stratified Huber forces beside nequip-allegro's own: model, loss and optimizer."""

from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from nequip.data import AtomicDataDict as Keys
from nequip.data import PerAtomModifier
from nequip.train import HuberLoss, MeanSquaredError, MetricsManager, StratifiedHuberForceLoss
from nequip.utils.global_state import set_global_state

from allegro_model.nequip import from_nequip

pytest.importorskip("mlip_train")

from mlip_train.config import LossConfig, OptimizerConfig, SourceConfig
from mlip_train.data.batches import collate
from mlip_train.data.build import build_table
from mlip_train.steps.eager import EagerStep
from mlip_train.steps.loss import stratified_huber
from mlip_train.training.optimizer import make_optimizer

NAMES = ["H", "C", "O"]
STRATA = [
    {0: 0.05, 1.0: 0.02, 4.0: 0.3},
    {0.5: 0.1, 2.0: 0.01},  # below 0.5 eV/Å the squared error
    {0.0: 0.01, 1e3: 0.1},  # a stratum without atoms
]


@pytest.fixture(autouse=True)
def float64():
    dtype = torch.get_default_dtype()
    set_global_state()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(dtype)


@pytest.mark.parametrize("deltas", STRATA)
def test_stratified_huber_is_theirs(deltas):
    random = np.random.default_rng(1)
    label, prediction = (torch.from_numpy(random.normal(size=(500, 3)) * 2) for _ in range(2))
    label[:3] = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.0]])  # on the bounds
    x = prediction.clone().requires_grad_(True)
    theirs = StratifiedHuberForceLoss(delta_dict=deltas)(x, label)
    (expected,) = torch.autograd.grad(theirs, x)

    y = prediction.clone().requires_grad_(True)
    ours = stratified_huber(deltas, y - label, label).mean()
    (gradient,) = torch.autograd.grad(ours, y)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-14)
    assert torch.allclose(gradient, expected, rtol=1e-13, atol=0)


def batch_and_data(folder: Path, model):
    """The same frames as a batch of ours and as nequip's dictionary."""
    frames = []
    for seed in range(9):
        atoms = ase.build.molecule(("H2O", "CH3OH", "CH3CH2OH")[seed % 3])
        atoms.rattle(0.08, seed=seed)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    ase.io.write(folder / "frames.xyz", frames)
    table = build_table(
        [SourceConfig(path=str(folder / "frames.xyz"))], NAMES, model.cutoffs, folder / "cache"
    )
    batch = collate(table, np.arange(len(table)))
    data = {
        Keys.POSITIONS_KEY: batch.positions,
        Keys.EDGE_INDEX_KEY: batch.edge_index,
        Keys.ATOM_TYPE_KEY: batch.types,
        Keys.BATCH_KEY: batch.frame,
        Keys.NUM_NODES_KEY: batch.atoms.long(),
    }
    labels = data | {Keys.TOTAL_ENERGY_KEY: batch.energy[:, None], Keys.FORCE_KEY: batch.forces}
    return batch, data, labels


@pytest.mark.parametrize("energy_kind", ["mse", "huber"])
def test_one_step_is_theirs(energy_kind, small_allegro, tmp_path):
    reference = small_allegro(NAMES, l_max=2, num_layers=2)
    model = from_nequip(reference)
    batch, data, labels = batch_and_data(tmp_path, model)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    energy_metric = {"mse": MeanSquaredError(), "huber": HuberLoss(delta=0.5)}[energy_kind]
    loss = MetricsManager(
        [
            {
                "name": "energy",
                "field": PerAtomModifier(Keys.TOTAL_ENERGY_KEY),
                "coeff": 1,
                "metric": energy_metric,
            },
            {
                "name": "forces",
                "field": Keys.FORCE_KEY,
                "coeff": 3,
                "metric": StratifiedHuberForceLoss(delta_dict=STRATA[0]),
            },
        ]
    )
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.01, weight_decay=0.0)
    theirs = loss(reference(dict(data)), labels)["weighted_sum"]
    theirs.backward()
    optimizer.step()

    config = LossConfig(
        kind="huber",
        energy_kind=energy_kind,
        energy_delta=0.5 if energy_kind == "huber" else None,
        force_deltas=STRATA[0],
    )
    ours = EagerStep(model, config)(batch, torch.tensor([0.25, 0.75, 0.0]))  # nequip makes the sum 1
    ours.loss.backward()
    make_optimizer(model, OptimizerConfig(name="adamw", lr=0.01)).step()

    assert ours.loss.item() == pytest.approx(theirs.item(), rel=1e-12)
    after = from_nequip(reference).state_dict()
    moved = [name for name in after if not torch.equal(after[name], before[name])]
    assert len(moved) > 8
    for name, value in model.state_dict().items():
        assert torch.allclose(value, after[name], rtol=0, atol=1e-9), name
