"""Models of nequip-allegro and their imported counterparts give the same energies, forces and stress."""

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import ase
import ase.build
import ase.io
import numpy as np
import pytest
import torch
from allegro.model import AllegroModel
from allegro.model.allegro_models import FullAllegroModel
from ase.calculators.singlepoint import SinglePointCalculator
from nequip.data import AtomicDataDict, from_ase
from nequip.data._nl import compute_neighborlist_
from nequip.model.saved_models.load_utils import load_saved_model
from nequip.utils.global_state import set_global_state

import allegro_model
import localgraph
from allegro_model import direct

NAMES = ["H", "C", "O", "Si"]
CUTOFF = 4.0


@pytest.fixture(scope="module", autouse=True)
def nequip_state():
    dtype = torch.get_default_dtype()
    set_global_state()
    yield
    torch.set_default_dtype(dtype)


def reference_settings(seed=0, dtype="float64", **changes):
    rng = random.Random(seed)
    settings = dict(
        seed=seed,
        model_dtype=dtype,
        r_max=CUTOFF,
        type_names=NAMES,
        l_max=2,
        parity=True,
        radial_chemical_embed={"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 8},
        radial_chemical_embed_dim=12,
        scalar_embed_mlp_hidden_layers_depth=2,
        scalar_embed_mlp_hidden_layers_width=10,
        num_layers=2,
        num_scalar_features=9,
        num_tensor_features=6,
        allegro_mlp_hidden_layers_depth=2,
        allegro_mlp_hidden_layers_width=14,
        readout_mlp_hidden_layers_depth=1,
        readout_mlp_hidden_layers_width=8,
        readout_mlp_nonlinearity=None,
        avg_num_neighbors=11.0,
        per_type_energy_scales={name: rng.uniform(0.5, 2) for name in NAMES},
        per_type_energy_shifts={name: rng.uniform(-5, 5) for name in NAMES},
    )
    return {**settings, **changes}


def reference_model(**changes):
    return AllegroModel(**reference_settings(**changes))


ZBL = {"_target_": "nequip.nn.pair_potential.ZBL", "units": "metal", "chemical_species": NAMES}


def molecule():
    atoms = ase.build.molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    return atoms


def crystal():
    atoms = ase.Atoms("SiO2CH2", cell=[[4.1, 0, 0], [0.7, 4.6, 0], [-0.9, 0.4, 5.2]])
    atoms.positions = [
        [0, 0, 0],
        [1.6, 0.2, 0.3],
        [0.1, 2.2, 1.9],
        [2.2, 2.0, 2.6],
        [3.0, 1.2, 2.1],
        [1.3, 3.1, 4.1],
    ]
    atoms.pbc = True
    return atoms


def theirs(model, atoms):
    data = from_ase(atoms)
    types = torch.tensor([NAMES.index(s) for s in atoms.get_chemical_symbols()])
    data[AtomicDataDict.ATOM_TYPE_KEY] = types
    data = compute_neighborlist_(data, r_max=CUTOFF, backend="ase")
    out = model(data)
    stress = out[AtomicDataDict.STRESS_KEY].reshape(3, 3) if atoms.pbc.all() else None
    return out[AtomicDataDict.TOTAL_ENERGY_KEY].sum(), out[AtomicDataDict.FORCE_KEY], stress


def ours(model, atoms):
    positions = torch.tensor(atoms.positions)
    cell = torch.tensor(atoms.cell.array) if atoms.pbc.any() else None
    types = torch.tensor([NAMES.index(s) for s in atoms.get_chemical_symbols()])
    graph = localgraph.neighbors(positions, model.cutoff, cell, tuple(bool(p) for p in atoms.pbc))
    vectors = localgraph.edge_vectors(positions, graph, cell)
    energies, g = localgraph.energies_and_edge_forces(model, vectors, graph.edge_index, types)
    stress = None
    if cell is not None:
        stress = localgraph.stress(localgraph.virial(g, vectors), localgraph.volume(cell))
    return energies.sum(), localgraph.forces(g, graph.edge_index, graph.num_atoms), stress


def compare(reference, model, tolerance_energy, tolerance_forces):
    for atoms in (molecule(), crystal()):
        for a, b, tolerance in zip(
            theirs(reference, atoms),
            ours(model, atoms),
            (tolerance_energy, tolerance_forces, tolerance_forces),
            strict=True,
        ):
            if a is None:
                continue
            assert a.abs().max() > 1e-3  # nothing is compared with a zero
            assert (a.detach() - b.detach()).abs().max() <= tolerance


CASES = list(itertools.product((1, 2, 3), (1, 2, 3), (True, False), (True, False), (True, False)))


@pytest.mark.parametrize("l_max, num_layers, parity, coupled, extras", CASES)
def test_equal_in_float64(l_max, num_layers, parity, coupled, extras):
    changes = {}
    if extras:
        changes = dict(
            pair_potential=ZBL,
            per_edge_type_cutoff={"H": 2.5, "O": {"H": 3.0, "C": 3.5}},
            avg_num_neighbors={"H": 5.0, "C": 9.0, "O": 7.0, "Si": 20.0},
        )
    reference = reference_model(
        l_max=l_max,
        num_layers=num_layers,
        parity=parity,
        tp_path_channel_coupling=coupled,
        seed=l_max + 10 * num_layers,
        **changes,
    )
    model = allegro_model.nequip.from_nequip(reference)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in reference.parameters())
    compare(reference, model, 1e-10, 1e-9)


@pytest.mark.parametrize("extras", [False, True])
def test_equal_in_float32(extras):
    changes = dict(pair_potential=ZBL, per_edge_type_cutoff={"H": 2.5}) if extras else {}
    reference = reference_model(dtype="float32", **changes)
    torch.set_default_dtype(torch.float64)
    compare(reference, allegro_model.nequip.from_nequip(reference), 1e-5, 1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        dict(readout_mlp_nonlinearity="silu"),
        dict(allegro_mlp_hidden_layers_depth=0),
        dict(allegro_mlp_nonlinearity=None),
        dict(allegro_mlp_nonlinearity="mish", scalar_embed_mlp_nonlinearity="gelu"),
        dict(scalar_embed_mlp_hidden_layers_depth=0),
        dict(forward_normalize=False),
        dict(per_type_energy_scales=None, per_type_energy_shifts=None),
        dict(per_type_energy_scales=1.7, per_type_energy_shifts_trainable=True),
        dict(
            radial_chemical_embed={
                "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
                "num_bessels": 5,
                "bessel_trainable": True,
                "polynomial_cutoff_p": 5,
            }
        ),
    ],
    ids=lambda changes: "-".join(changes),
)
def test_settings(changes):
    reference = reference_model(**changes)
    model = allegro_model.nequip.from_nequip(reference)
    compare(reference, model, 1e-10, 1e-9)
    reference_trainable = sum(p.numel() for p in reference.parameters() if p.requires_grad)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == reference_trainable


def test_the_direct_form_is_the_reference():
    reference = reference_model(num_layers=3)
    model = allegro_model.nequip.from_nequip(reference)
    atoms = molecule()
    positions = torch.tensor(atoms.positions)
    types = torch.tensor([NAMES.index(s) for s in atoms.get_chemical_symbols()])
    graph = localgraph.neighbors(positions, CUTOFF)
    energies = direct.atom_energies(model, localgraph.edge_vectors(positions, graph), graph.edge_index, types)
    assert abs(energies.sum() - theirs(reference, atoms)[0]).item() < 1e-10


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            dict(radial_chemical_embed={"_target_": "allegro.nn.TwoBodySplineScalarEmbed"}),
            "TwoBodySplineScalarEmbed|SplineScalarEmbed",
        ),
        (dict(pair_potential={**ZBL, "units": "real"}), "units other than metal"),
        (dict(pair_potential={**ZBL, "polynomial_cutoff_p": 4.0}), "cutoff exponent"),
        (dict(weight_individual_irreps=False), "weight_individual_irreps"),
        (dict(allegro_mlp_nonlinearity="ssp"), "ShiftedSoftplus"),
        (
            dict(pair_potential={**ZBL, "chemical_species": ["O", "C", "H", "Si"]}),
            r"pair_potential: atomic numbers \[8.*, 6.*, 1.*, 14.*\] are not those of the types",
        ),
    ],
    ids=["spline", "units", "exponent", "shared weights", "activation", "other elements"],
)
def test_what_cannot_be_mapped_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        allegro_model.nequip.from_nequip(reference_model(**changes))


@pytest.mark.parametrize(
    "harmonics, allowed",
    [
        ("0e+1o+2e", "0e+1o"),
        ("0e+1o+2e", "0e+2e+1o"),
        ("0e+2e+1o", "0e+1o+2e"),
        ("0e+1o", "0e+1o+1e+0o"),
        ("0e+1e", "0e+1e"),
    ],
)
def test_irreps_that_are_not_ours_are_named(harmonics, allowed):
    """Subsets and other orders have weights of the same shapes, or none that fit."""
    settings = reference_settings(num_layers=3)
    del settings["l_max"], settings["parity"]
    reference = FullAllegroModel(**settings, irreps_edge_sh=harmonics, tensor_track_allowed_irreps=allowed)
    with pytest.raises(ValueError, match=r"allegro\.tps\.\d: irreps_(in1|in2|out) .* are not"):
        allegro_model.nequip.from_nequip(reference)


def test_one_type_with_its_own_cutoff(monkeypatch):
    monkeypatch.setitem(globals(), "NAMES", ["Si"])
    changes = dict(per_type_energy_scales=None, per_type_energy_shifts=None)
    reference = reference_model(type_names=["Si"], per_edge_type_cutoff={"Si": 3.0}, **changes)
    model = allegro_model.nequip.from_nequip(reference)
    assert model.cutoffs.tolist() == [[3.0]]
    atoms = ase.Atoms("Si4", positions=[[0, 0, 0], [2.3, 0, 0], [0, 2.4, 0.3], [3.1, 2.2, 1.0]])
    for a, b in zip(theirs(reference, atoms)[:2], ours(model, atoms)[:2], strict=True):
        assert (a.detach() - b.detach()).abs().max() <= 1e-10


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="nequip-allegro model"):
        allegro_model.nequip.from_nequip(torch.nn.Linear(2, 2))


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        allegro_model.nequip.from_nequip("nowhere.ckpt")


CONFIG = """
run: [train]
cutoff_radius: 4.0
type_names: [H, C, O]
data:
  _target_: nequip.data.datamodule.ASEDataModule
  seed: 1
  train_file_path: frames.xyz
  val_file_path: frames.xyz
  transforms:
    - _target_: nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper
      model_type_names: ${type_names}
    - _target_: nequip.data.transforms.NeighborListTransform
      r_max: ${cutoff_radius}
  train_dataloader: {_target_: torch.utils.data.DataLoader, batch_size: 2}
  val_dataloader: {_target_: torch.utils.data.DataLoader, batch_size: 2}
trainer:
  _target_: lightning.Trainer
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_progress_bar: false
  callbacks:
    - {_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: out, save_last: true}
training_module:
  _target_: nequip.train.EMALightningModule
  ema_decay: 0.9
  loss: {_target_: nequip.train.EnergyForceLoss, per_atom_energy: true, coeffs: {total_energy: 1.0, forces: 1.0}}
  val_metrics: {_target_: nequip.train.EnergyForceMetrics, coeffs: {per_atom_energy_mae: 1.0, forces_mae: 1.0}}
  optimizer: {_target_: torch.optim.Adam, lr: 0.01}
  model:
    _target_: allegro.model.AllegroModel
    seed: 1
    model_dtype: float32
    type_names: ${type_names}
    r_max: ${cutoff_radius}
    l_max: 2
    radial_chemical_embed: {_target_: allegro.nn.TwoBodyBesselScalarEmbed}
    radial_chemical_embed_dim: 8
    num_layers: 2
    num_scalar_features: 8
    num_tensor_features: 4
    allegro_mlp_hidden_layers_width: 8
    readout_mlp_hidden_layers_width: 8
    avg_num_neighbors: 6.0
    per_type_energy_shifts: {H: -1.0, C: -2.0, O: -3.0}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint and a packaged model that nequip's own commands write."""
    folder = tmp_path_factory.mktemp("nequip")
    (folder / "config.yaml").write_text(CONFIG)
    frames = []
    for seed in range(4):
        atoms = ase.build.molecule("CH3CH2OH")
        atoms.rattle(0.05, seed=seed)
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 + seed, forces=np.full((9, 3), 0.1 * seed))
        frames.append(atoms)
    ase.io.write(folder / "frames.xyz", frames)
    bin_directory = Path(sys.executable).parent
    for command in (
        ["nequip-train", "-cp", str(folder), "-cn", "config"],
        ["nequip-package", "build", "out/last.ckpt", "packaged.nequip.zip"],
    ):
        command[0] = str(bin_directory / command[0])
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    return folder / "out" / "last.ckpt", folder / "packaged.nequip.zip"


def test_checkpoint_and_packaged_model(trained):
    checkpoint, packaged = trained
    torch.manual_seed(7)
    before = (
        torch.get_rng_state(),
        torch.get_default_dtype(),
        np.random.get_state()[1].copy(),
        dict(os.environ),
    )
    models = [allegro_model.nequip.from_nequip(path) for path in (checkpoint, packaged)]
    assert torch.equal(before[0], torch.get_rng_state())
    assert torch.get_default_dtype() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()
    assert dict(os.environ) == before[3]
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    reference = load_saved_model(checkpoint)
    names = list(models[0].type_names)
    atoms = molecule()
    data = from_ase(atoms)
    data[AtomicDataDict.ATOM_TYPE_KEY] = torch.tensor([names.index(s) for s in atoms.get_chemical_symbols()])
    expected = reference(compute_neighborlist_(data, r_max=CUTOFF, backend="ase"))
    positions, types = torch.tensor(atoms.positions), data[AtomicDataDict.ATOM_TYPE_KEY]
    graph = localgraph.neighbors(positions, CUTOFF)
    energies = models[0](localgraph.edge_vectors(positions, graph), graph.edge_index, types)
    assert abs(energies.sum() - expected[AtomicDataDict.TOTAL_ENERGY_KEY].sum()).item() < 1e-5
