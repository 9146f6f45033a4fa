"""Files of the installed nequip and nequip-allegro, any pair of versions, open as the equal model.

`nox -f nox.py -s versions` runs this file with the pairs of versions that people's files were made with.
"""

import importlib
import multiprocessing
import os
import sys
import warnings
from pathlib import Path

import ase
import ase.build
import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.calculators.singlepoint import SinglePointCalculator

warnings.filterwarnings("ignore")  # of versions that no longer change
import allegro  # noqa: E402
import nequip  # noqa: E402
from nequip.data import AtomicDataDict, from_ase  # noqa: E402
from nequip.data._nl import compute_neighborlist_  # noqa: E402
from nequip.model import ModelFromCheckpoint  # noqa: E402
from nequip.utils.global_state import set_global_state  # noqa: E402

import localgraph  # noqa: E402
from allegro_model.nequip import from_nequip  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
VERSION = tuple(int(part) for part in allegro.__version__.split(".")[:2])
NEQUIP = tuple(int(part) for part in nequip.__version__.split(".")[:2])
NAMES = ["H", "C", "O", "Si"]
CUTOFF = 4.0
ZBL = {"_target_": "nequip.nn.pair_potential.ZBL", "units": "metal", "chemical_species": NAMES}
SPLINE = {"_target_": "allegro.nn.TwoBodySplineScalarEmbed", "num_splines": 6, "spline_span": 4}
PAIR_CUTOFFS = {"H": 3.0, "C": 4.0, "O": {"H": 3.0, "C": 3.5, "O": 3.8, "Si": 2.5}, "Si": 4.0}


def per_type(*values):
    """Return numbers per type as the version takes them: a list before nequip 0.8, a mapping from 0.8 on."""
    return list(values) if NEQUIP < (0, 8) else dict(zip(NAMES, values, strict=True))


VARIANTS = {
    "plain": {},
    "single precision": {"model_dtype": "float32"},
    "zbl and pair cutoffs": {"pair_potential": ZBL, "per_edge_type_cutoff": PAIR_CUTOFFS},
    "three layers without parity": {"num_layers": 3, "parity": False, "tp_path_channel_coupling": False},
    "three layers with parity": {"num_layers": 3, "l_max": 1, "readout_mlp_nonlinearity": "silu"},
    "trained scales": {
        "per_type_energy_scales_trainable": True,
        "per_type_energy_shifts_trainable": True,
        "bessel_trainable": True,
        "polynomial_cutoff_p": 8,
        "pair_potential": ZBL,
    },
    "splines and ZBL": {"embed": SPLINE, "pair_potential": ZBL},
    "shared weights": {"weight_individual_irreps": False, "l_max": 1},
}

# The architectures of the public Allegro-OAM-L and Allegro-MP-L, of nequip 0.13.0 and allegro 0.7.1: INTEROP_FULL=1.
PUBLIC = {
    "model_dtype": "float32",
    "type_names": [s for s in localgraph.ELEMENTS[:94] if s not in ("Po", "At", "Rn", "Fr", "Ra")],
    "l_max": 3,
    "parity": False,
    "num_scalar_features": 256,
    "allegro_mlp_hidden_layers_width": 1024,
    "embed": {
        "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
        "num_bessels": 12,
        "bessel_trainable": True,
        "polynomial_cutoff_p": 8,
    },
    "radial_chemical_embed_dim": 512,
    "scalar_embed_mlp_hidden_layers_depth": 1,
    "scalar_embed_mlp_hidden_layers_width": 512,
    "readout_mlp_hidden_layers_width": 128,
    "readout_mlp_nonlinearity": "silu",
    "per_type_energy_scales_trainable": True,
}
FULL_SIZE = {
    "OAM-L": PUBLIC
    | {
        "r_max": 7.0,
        "avg_num_neighbors": 9986.0,
        "num_layers": 4,
        "num_tensor_features": 64,
        "allegro_mlp_hidden_layers_depth": 2,
    },
    "MP-L": PUBLIC
    | {
        "r_max": 6.0,
        "avg_num_neighbors": 3843.0,
        "num_layers": 5,
        "num_tensor_features": 96,
        "allegro_mlp_hidden_layers_depth": 3,
    },
}
FULL_SIZE |= {
    f"{name} float64": {**settings, "model_dtype": "float64"} for name, settings in FULL_SIZE.items()
}
if "INTEROP_FULL" in os.environ:
    VARIANTS = FULL_SIZE


def model_settings(changes):
    """Return the model's configuration as the installed version spells it."""
    changes = dict(changes)
    embed = changes.pop("embed", None) or {
        "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
        "num_bessels": 5,
        "bessel_trainable": changes.pop("bessel_trainable", False),
        "polynomial_cutoff_p": changes.pop("polynomial_cutoff_p", 6),
    }
    parity = changes.pop("parity", True)
    settings = {
        "_target_": "allegro.model.AllegroModel",
        "seed": 1,
        "model_dtype": "float64",
        "type_names": NAMES,
        "r_max": CUTOFF,
        "l_max": 2,
        "num_layers": 2,
        "num_scalar_features": 9,
        "num_tensor_features": 6,
        "allegro_mlp_hidden_layers_depth": 1,
        "allegro_mlp_hidden_layers_width": 11,
        "readout_mlp_hidden_layers_depth": 1,
        "readout_mlp_hidden_layers_width": 8,
        "readout_mlp_nonlinearity": None,
        "avg_num_neighbors": 9.0,
        "per_type_energy_scales": per_type(1.5, 0.0, 0.7, 1.1),
        "per_type_energy_shifts": per_type(-1.0, -2.0, -3.0, -4.0),
    }
    if VERSION < (0, 5):
        if "Bessel" in embed["_target_"]:
            embed |= {"two_body_embedding_dim": 12, "two_body_mlp_hidden_layers_width": 10}
        settings |= {
            "scalar_embed": embed,
            "scalar_embed_output_dim": 13,
            "parity_setting": "o3_full" if parity else "o3_restricted",
        }
    else:
        settings |= {
            "radial_chemical_embed": embed,
            "radial_chemical_embed_dim": 12,
            "scalar_embed_mlp_hidden_layers_depth": 2,
            "scalar_embed_mlp_hidden_layers_width": 10,
            "parity": parity,
        }
    settings |= changes
    if "type_names" in changes:
        names = settings["type_names"]
        settings["per_type_energy_scales"] = {name: 1.0 + 0.01 * k for k, name in enumerate(names)}
        settings["per_type_energy_shifts"] = {name: -0.1 * k for k, name in enumerate(names)}
    return settings


def training(model):
    """Return the configuration of a run of nequip-train: one epoch on four frames, with a moving average."""
    names = "chemical_symbols" if NEQUIP < (0, 16) else "model_type_names"
    mapper = {
        "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
        names: model["type_names"],
    }
    neighbors = {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": model["r_max"]}
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": 2}
    checkpoint = {
        "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
        "dirpath": "out",
        "save_last": True,
    }
    energies = {"total_energy": 1.0, "forces": 1.0}
    return {
        "run": ["train"],
        **({"global_options": {"allow_tf32": False}} if NEQUIP < (0, 17) else {}),
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": 1,
            "train_file_path": "frames.xyz",
            "val_file_path": "frames.xyz",
            "transforms": [mapper, neighbors],
            "train_dataloader": loader,
            "val_dataloader": loader,
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_epochs": 1,
            "limit_train_batches": 1 if "INTEROP_FULL" in os.environ else 1.0,
            "limit_val_batches": 1 if "INTEROP_FULL" in os.environ else 1.0,
            "logger": False,
            "enable_progress_bar": False,
            "callbacks": [checkpoint],
        },
        "training_module": {
            "_target_": "nequip.train.EMALightningModule",
            "ema_decay": 0.5,
            "loss": {
                "_target_": "nequip.train.EnergyForceLoss",
                "per_atom_energy": True,
                "coeffs": energies,
            },
            "val_metrics": {"_target_": "nequip.train.EnergyForceMetrics", "coeffs": {"forces_mae": 1.0}},
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
            "model": model,
        },
    }


def molecule():
    atoms = ase.build.molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    return atoms


def crystal():
    atoms = ase.Atoms("SiO2CH2", cell=[[4.1, 0, 0], [0.7, 4.6, 0], [-0.9, 0.4, 5.2]], pbc=True)
    atoms.set_scaled_positions(
        [[0, 0, 0], [0.4, 0.05, 0.05], [0.1, 0.45, 0.35], [0.6, 0.4, 0.5], [0.8, 0.2, 0.4], [0.4, 0.7, 0.8]]
    )
    return atoms


def frames(path):
    """Write four molecules with made-up labels, and crystals so that every type is seen."""
    written = []
    for seed in range(4):
        atoms = molecule() if seed % 2 else crystal()
        atoms.rattle(0.05, seed=seed)
        forces = np.full((len(atoms), 3), 0.1 * seed)
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 + seed, forces=forces)
        written.append(atoms)
    ase.io.write(path, written)


def write_files(folder, changes):
    """Train and package a model with the commands of the installed nequip; return both files."""
    folder.mkdir(parents=True, exist_ok=True)
    frames(folder / "frames.xyz")
    (folder / "config.yaml").write_text(yaml.safe_dump(training(model_settings(changes))))
    package = ["build", "out/last.ckpt", "packaged.nequip.zip"]
    if NEQUIP < (0, 8):
        package = ["--ckpt-path", "out/last.ckpt", "--output-path", "packaged.nequip.zip"]
    run("nequip.scripts.train", ["-cp", str(folder), "-cn", "config"], folder)
    run("nequip.scripts.package", package, folder)
    return folder / "out" / "last.ckpt", folder / "packaged.nequip.zip"


def run(module, arguments, folder):
    """Run a command of nequip in a forked process, which has imported it already."""

    def target():
        os.chdir(folder)
        sys.argv = [module, *arguments]
        with open("log.txt", "w") as log:
            sys.stdout = sys.stderr = log
            importlib.import_module(module).main()

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join(600)
    assert process.exitcode == 0, (folder / "log.txt").read_text()[-3000:]


def theirs(model, atoms, names, cutoff):
    """Return energy, forces and stress of the old program, with its own neighbor list."""
    data = from_ase(atoms)
    data[AtomicDataDict.ATOM_TYPE_KEY] = localgraph.types_of(atoms.get_chemical_symbols(), names)
    backend = {"backend": "ase"} if NEQUIP >= (0, 17) else {"NL": "ase"}
    data = compute_neighborlist_(data, r_max=cutoff, **backend)
    out = model(data)
    stress = out[AtomicDataDict.STRESS_KEY].reshape(3, 3).detach() if atoms.pbc.all() else None
    return out[AtomicDataDict.TOTAL_ENERGY_KEY].detach().sum(), out[AtomicDataDict.FORCE_KEY].detach(), stress


def ours(model, atoms):
    """Return energy, forces and stress of the imported model."""
    types = localgraph.types_of(atoms.get_chemical_symbols(), model.type_names)
    cell = torch.tensor(atoms.cell.array) if atoms.pbc.any() else None
    found = localgraph.evaluate(model, torch.tensor(atoms.positions), types, cell, atoms.pbc)
    return found.energies.sum(), found.forces, found.stress


def compare(reference, model, double):
    """Assert equal energies (eV), forces (eV/Å) and stress (eV/Å³) on a molecule and a crystal."""
    tolerances = (1e-10, 1e-9, 1e-9) if double else (1e-5, 1e-4, 1e-4)
    for atoms in (molecule(), crystal()):
        expected = theirs(reference, atoms, model.type_names, model.cutoff)
        for a, b, tolerance in zip(expected, ours(model, atoms), tolerances, strict=True):
            if a is not None:
                assert a.abs().max() > 1e-3  # nothing is compared with a zero
                assert (a - b).abs().max() <= tolerance


@pytest.fixture(scope="module", autouse=True)
def nequip_state():
    dtype = torch.get_default_dtype()
    set_global_state()
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where files are written: a new folder, or that of ``INTEROP_FILES``, whose files are kept and used again."""
    return Path(os.environ.get("INTEROP_FILES") or tmp_path_factory.mktemp("nequip"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_open_as_the_equal_model(variant, folder):
    changes = VARIANTS[variant]
    at = folder / variant.replace(" ", "-")
    files = at / "out" / "last.ckpt", at / "packaged.nequip.zip"
    files = files if all(f.exists() for f in files) else write_files(at, changes)
    reference = ModelFromCheckpoint(str(files[0]))
    reference = reference["sole_model"] if isinstance(reference, torch.nn.ModuleDict) else reference
    models = [from_nequip(path) for path in files]
    for model in models:
        compare(reference, model, changes.get("model_dtype") != "float32")
    for a, b in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(a, b)
