"""MACE with equitensor's kernels in its convolutions, and MACE beside a potential of ours in one process.

Run by `nox -f nox.py -s mace`, which installs mace-torch and with it e3nn 0.4.4.
"""

# ruff: noqa: I001

import mace  # noqa: F401 (first: it lets torch.load read the constants that e3nn 0.4.4 keeps in a pickle)

import importlib.metadata

import ase.build
import numpy as np
import pytest
import torch
from e3nn import o3
from mace import modules
from mace.calculators import MACECalculator

import localgraph
import mlip_export
from equitensor import TensorProduct, row_offsets, to_atoms
from mlip_export.ase import Calculator

CHANNELS = 8
PROPERTIES = ("energy", "forces", "stress")


class Convolution(torch.nn.Module):
    """Σ over the edges of a receiver of the weighted paths x[sender] ⊗ Y, MACE's ``conv_tp`` and ``scatter_sum``.

    Every path has weights per edge and channel and an output of its own, in the order of ``instructions``. Features are
    e3nn's: irrep by irrep, channels before components.
    """

    def __init__(self, theirs):
        super().__init__()
        self.irreps_in = [ir for _, ir in theirs.irreps_in1]
        self.slices_x, self.slices_y = theirs.irreps_in1.slices(), theirs.irreps_in2.slices()
        self.paths = []
        for i in sorted(theirs.instructions, key=lambda i: i.i_out):
            irreps = (theirs.irreps_in1[i.i_in1], theirs.irreps_in2[i.i_in2], theirs.irreps_out[i.i_out])
            tp = TensorProduct(*(str(ir) for _, ir in irreps), coupled=False)
            self.paths.append((tp, i.i_in1, i.i_in2, theirs.instructions.index(i)))

    def forward(self, x, y, weights, edge_index):
        """Return messages of the receivers, (N, irreps_out)."""
        order = torch.argsort(edge_index[1], stable=True)
        (sender, receiver), y = edge_index[:, order], y[order]
        weights = weights[order].unflatten(1, (len(self.paths), CHANNELS))
        one, messages = x.new_ones(1), []
        for tp, i, j, number in self.paths:
            features = x[:, self.slices_x[i]].unflatten(1, (CHANNELS, -1)).transpose(1, 2)[sender]
            harmonics = y[:, self.slices_y[j]].unsqueeze(2).expand(-1, -1, CHANNELS)
            messages.append(tp(features * weights[:, number].unsqueeze(1), harmonics, one))
        dims = [message.shape[1] for message in messages]
        flat = torch.cat(messages, 1).flatten(1).unsqueeze(1)
        summed = to_atoms(flat, x.new_ones(len(flat), 1), receiver, row_offsets(receiver, len(x)))
        blocks = summed.view(len(x), -1, CHANNELS).split(dims, 1)
        return torch.cat([block.transpose(1, 2).flatten(1) for block in blocks], 1)


@pytest.fixture(scope="module")
def water():
    atoms = ase.build.molecule("H2O", cell=[6.0, 6.0, 6.0], pbc=True).repeat((2, 1, 1))
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture(scope="module", autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mace_model():
    torch.manual_seed(0)
    return modules.ScaleShiftMACE(
        r_max=4.0,
        num_bessel=6,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=2,
        num_elements=2,
        hidden_irreps=o3.Irreps(f"{CHANNELS}x0e + {CHANNELS}x1o"),
        MLP_irreps=o3.Irreps("8x0e"),
        atomic_energies=np.array([-13.6, -430.0]),
        avg_num_neighbors=5.0,
        atomic_numbers=[1, 8],
        correlation=2,
        gate=torch.nn.functional.silu,
        radial_MLP=[16],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )


def results(calculator, atoms):
    atoms = atoms.copy()
    atoms.calc = calculator
    return {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }


def with_our_convolutions(model):
    """MACE calls its convolution with ``edge_index`` where a fused one is declared."""
    for interaction in model.interactions:
        interaction.conv_tp = Convolution(interaction.conv_tp)
        interaction.conv_fusion = True
    return model


def test_this_is_the_e3nn_that_mace_pins():
    assert importlib.metadata.version("e3nn") == "0.4.4"


@pytest.mark.parametrize("layer", [0, 1])
def test_one_convolution(layer):
    """Values and gradients of everything that reaches it, with edges in any order."""
    interaction = mace_model().interactions[layer]
    theirs = interaction.conv_tp
    generator = torch.Generator().manual_seed(layer)
    edge_index = torch.randint(5, (2, 40), generator=generator)
    shapes = (5, theirs.irreps_in1.dim), (40, theirs.irreps_in2.dim), (40, theirs.weight_numel)
    x, y, w = (torch.randn(s, generator=generator).requires_grad_() for s in shapes)
    assert (layer == 0) == (len(Convolution(theirs).paths) == 3)
    expected = torch.zeros(5, theirs.irreps_out.dim).index_add(
        0, edge_index[1], theirs(x[edge_index[0]], y, w)
    )
    got = Convolution(theirs)(x, y, w, edge_index)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    gradients = (torch.autograd.grad(out.sin().sum(), (x, y, w)) for out in (got, expected))
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-6, rtol=0)


def test_mace_with_our_convolutions(water):
    """Energy (eV), forces (eV/Å) and stress (eV/Å³) of the calculator."""
    theirs, ours = (
        results(MACECalculator(models=[m], device="cpu", default_dtype="float64"), water)
        for m in (mace_model(), with_our_convolutions(mace_model()))
    )
    assert np.abs(theirs["forces"]).max() > 1e-3
    for name in PROPERTIES:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6, rtol=0)


def test_a_calculator_of_ours_beside_mace(water, tmp_path):
    """Both in one process: neither changes the other's results."""
    torch.set_default_dtype(torch.float32)
    model = localgraph.model_class("allegro").from_config(
        {
            "type_names": ["H", "O"],
            "cutoff": 4.0,
            "l_max": 1,
            "num_scalar_features": 8,
            "num_tensor_features": 8,
            "latent_width": 16,
            "energy_shifts": {"H": -13.6, "O": -430.0},
        }
    )
    mlip_export.compile(model, tmp_path / "water.pt2")
    ours = Calculator(tmp_path / "water.pt2")
    alone = results(ours, water)
    torch.set_default_dtype(torch.float64)
    theirs = MACECalculator(models=[mace_model()], device="cpu", default_dtype="float64")
    before = results(theirs, water)
    for name in PROPERTIES:
        np.testing.assert_array_equal(results(ours, water)[name], alone[name])
        np.testing.assert_array_equal(results(theirs, water)[name], before[name])
