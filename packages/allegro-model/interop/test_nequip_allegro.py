"""Models of nequip-allegro and their imported counterparts give the same energies, forces and stress."""

import itertools
import random

import ase
import ase.build
import pytest
import torch
from allegro.model import AllegroModel
from allegro.model.allegro_models import FullAllegroModel
from nequip.data import AtomicDataDict, from_ase
from nequip.data._nl import compute_neighborlist_
from nequip.nn import with_edge_vectors_
from nequip.utils.global_state import set_global_state

import allegro_model
import localgraph
from allegro_model import direct

NAMES = ["H", "C", "O", "Si"]
CUTOFF = 4.0


@pytest.fixture(autouse=True)
def nequip_state():
    dtype = torch.get_default_dtype()
    set_global_state()
    torch.set_default_dtype(torch.float64)  # a second call of set_global_state may change nothing
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


SIGMA = [[1.0, 1.1, 1.2, 1.3], [1.1, 1.4, 1.5, 1.6], [1.2, 1.5, 1.7, 1.8], [1.3, 1.6, 1.8, 1.9]]
LENNARD_JONES = {
    "_target_": "nequip.nn.pair_potential.LennardJones",
    "lj_sigma": SIGMA,
    "lj_epsilon": 0.05,
    "lj_delta": 0.1,
    "lj_epsilon_trainable": True,
}
SPLINES = {"_target_": "allegro.nn.TwoBodySplineScalarEmbed", "num_splines": 7, "spline_span": 4}


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


def graph_of(atoms):
    data = from_ase(atoms)
    types = torch.tensor([NAMES.index(s) for s in atoms.get_chemical_symbols()])
    data[AtomicDataDict.ATOM_TYPE_KEY] = types
    return compute_neighborlist_(data, r_max=CUTOFF, backend="ase")


def theirs(model, atoms):
    out = model(graph_of(atoms))
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
        dict(per_type_energy_scales={"H": 1.3, "C": 0.0, "O": 0.0, "Si": 0.9}),
        dict(weight_individual_irreps=False, num_layers=3),
        dict(l_max=0),
        dict(l_max=0, num_layers=3, parity=False),
        dict(radial_chemical_embed=SPLINES),
        dict(radial_chemical_embed=SPLINES, pair_potential=ZBL, per_edge_type_cutoff={"H": 2.5}),
        dict(pair_potential={**ZBL, "polynomial_cutoff_p": 4.0}),
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
        (dict(pair_potential={**ZBL, "units": "real"}), "units other than metal"),
        (dict(pair_potential={**LENNARD_JONES, "lj_style": "lj_repulsive_only"}), "jumps at its minimum"),
        (dict(allegro_mlp_nonlinearity="ssp"), "ShiftedSoftplus"),
        (
            dict(pair_potential={**ZBL, "chemical_species": ["O", "C", "H", "Si"]}),
            r"pair_potential: atomic numbers \[8.*, 6.*, 1.*, 14.*\] are not those of the types",
        ),
    ],
    ids=["units", "repulsive only", "activation", "other elements"],
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
        ("0e+2e", "0e+2e"),
    ],
)
def test_irreps_that_are_not_ours_are_named(harmonics, allowed):
    """Subsets and other orders have weights of the same shapes, or none that fit."""
    settings = reference_settings(num_layers=3)
    del settings["l_max"], settings["parity"]
    reference = FullAllegroModel(**settings, irreps_edge_sh=harmonics, tensor_track_allowed_irreps=allowed)
    with pytest.raises(ValueError, match=r"allegro\.tps\.\d: irreps_(in1|in2|out) .* are not"):
        allegro_model.nequip.from_nequip(reference)


@pytest.mark.parametrize(
    "changes",
    [
        dict(pair_potential=LENNARD_JONES, per_edge_type_cutoff={"H": 2.5}),
        dict(pair_potential={**LENNARD_JONES, "lj_style": "repulsive", "lj_exponent": 4.5}),
        dict(pair_potential={**LENNARD_JONES, "lj_exponent": 4.5, "polynomial_cutoff_p": 5.0}),
    ],
    ids=["lj", "repulsive", "exponents"],
)
def test_lennard_jones(changes):
    """Their module multiplies (E, 1) by (E,) and so computes one edge at a time only: its energies are summed here."""
    reference = reference_model(**changes)
    model = allegro_model.nequip.from_nequip(reference)
    assert model.lj_epsilon.requires_grad and not model.lj_sigma.requires_grad
    network = reference_model(**{**changes, "pair_potential": None})
    for atoms in (molecule(), crystal()):
        data = graph_of(atoms)
        data = with_edge_vectors_(reference.model.func.edge_norm(data), with_lengths=True)
        total = 0.0
        for e in range(data[AtomicDataDict.EDGE_INDEX_KEY].shape[1]):
            edge = dict(data)
            for key in (
                AtomicDataDict.EDGE_LENGTH_KEY,
                AtomicDataDict.NORM_LENGTH_KEY,
                AtomicDataDict.EDGE_VECTORS_KEY,
            ):
                edge[key] = data[key][e : e + 1]
            edge[AtomicDataDict.EDGE_INDEX_KEY] = data[AtomicDataDict.EDGE_INDEX_KEY][:, e : e + 1]
            total += reference.model.func.pair_potential(edge)[AtomicDataDict.PER_ATOM_ENERGY_KEY].sum()
        assert abs(total) > 1e-3
        expected = theirs(network, atoms)[0] + total
        assert abs(ours(model, atoms)[0] - expected).item() <= 1e-10 * max(1.0, abs(expected).item())


def test_harmonics_of_even_parity_are_named():
    settings = reference_settings(num_layers=3)
    del settings["l_max"], settings["parity"]
    reference = FullAllegroModel(**settings, irreps_edge_sh="0e+1e", tensor_track_allowed_irreps="0e+1e")
    with pytest.raises(ValueError, match="parity_setting so3"):
        allegro_model.nequip.from_nequip(reference)


def test_types_that_are_no_elements():
    """A water model's types are named by role; ZBL knows their elements."""
    roles = dict(zip(NAMES, ("Hw", "Cw", "Ow", "Siw"), strict=True))
    changes = {
        name: {roles[element]: value for element, value in reference_settings()[name].items()}
        for name in ("per_type_energy_scales", "per_type_energy_shifts")
    }
    reference = reference_model(type_names=list(roles.values()), pair_potential=ZBL, **changes)
    model = allegro_model.nequip.from_nequip(reference)
    assert model.type_names == tuple(roles.values()) and model.elements == tuple(NAMES)
    compare(reference, model, 1e-10, 1e-9)


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
    with pytest.raises(ValueError, match="must be an Allegro model of nequip-allegro"):
        allegro_model.nequip.from_nequip(torch.nn.Linear(2, 2))


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        allegro_model.nequip.from_nequip("nowhere.ckpt")
