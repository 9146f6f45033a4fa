"""Bad input is an exception that names the argument, what was required and what came."""

import json

import numpy as np
import pytest
import torch

from allegro_model import Allegro, AllegroConfig
from localgraph import evaluate

GOOD = dict(type_names=["H", "O"], cutoff=3.0)
LJ = {"sigma": 1.2, "epsilon": 0.01}


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(cutoff=0), r"cutoff must be a finite number > 0, got 0"),
        (dict(cutoff=-1.0), r"cutoff must be .* got -1.0"),
        (dict(cutoff=float("nan")), r"cutoff must be .* got nan"),
        (dict(type_names=[]), "type_names must be a non-empty"),
        (dict(type_names="HO"), "type_names must be a sequence"),
        (dict(type_names=["H", "H"]), "type_names must be distinct"),
        (dict(type_names=["H", "Xx"]), "type_names must be element symbols .* got 'Xx'"),
        (dict(l_max=-1), "l_max must be an integer ≥ 0, got -1"),
        (dict(num_layers=1.5), "num_layers must be an integer"),
        (dict(embed_dim=7), "embed_dim must be an even number, got 7"),
        (dict(latent_nonlinearity="softplus"), "latent_nonlinearity must be None or one of"),
        (dict(dtype="bfloat16"), "dtype must be one of"),
        (dict(mlp_dtype="float16"), "mlp_dtype must be one of .* got 'float16'"),
        (dict(fused_layers=True, latent_depth=3), "latent_depth must be 2 with fused_layers, got 3"),
        (dict(fused_layers=True, latent_nonlinearity="gelu"), "latent_nonlinearity must be 'silu' with"),
        (dict(fused_layers=True, readout_nonlinearity="silu"), "readout_nonlinearity must be None with"),
        (dict(fused_layers=True, mlp_dtype="bfloat16"), "mlp_dtype must be None with fused_layers"),
        (dict(avg_num_neighbors=0.0), "avg_num_neighbors must be a finite number > 0"),
        (dict(energy_shifts={"H": 1.0}), "energy_shifts must be a mapping with exactly the keys"),
        (dict(energy_scales=[1.0]), "energy_scales must be 2 numbers"),
        (dict(energy_scales=[1.0, float("inf")]), "energy_scales must be finite numbers"),
        (
            dict(type_cutoffs={"C": 2.0}),
            r"type_cutoffs must be a mapping with keys among \['H', 'O'\], got \['C'\]",
        ),
        (dict(type_cutoffs={"H": {"C": 2.0}}), "type_cutoffs.H must be a mapping with keys"),
        (dict(type_cutoffs={"H": 3.5}), "type_cutoffs.H must be at most cutoff"),
        (dict(zbl="yes"), "zbl must be true or false"),
        (dict(polynomial_cutoff_p=1), "polynomial_cutoff_p must be a finite number ≥ 2"),
        (
            dict(polynomial_cutoff_p=float("inf")),
            "polynomial_cutoff_p must be a finite number ≥ 2, got inf",
        ),
        (dict(polynomial_cutoff_p="6"), "polynomial_cutoff_p must be a finite number ≥ 2, got '6'"),
        (dict(polynomial_cutoff_p=None), "polynomial_cutoff_p must be a finite number ≥ 2, got None"),
        (dict(type_cutoffs=2.0), "type_cutoffs must be None or a mapping of types, got 2.0"),
        (dict(type_cutoffs=[2.0, 3.0]), "type_cutoffs must be None or a mapping"),
        (dict(type_names={"H", "O"}), "type_names must be a sequence"),
        (dict(type_names=["H", 8]), "type_names must be element symbols .* got 8"),
        (dict(elements={"Ow": "O"}), r"elements must be a mapping with keys among .* got \['Ow'\]"),
        (dict(elements={"O": "Ox"}), "elements.O must be an element symbol or None, got 'Ox'"),
        (dict(elements=["H"]), "elements must be None or a mapping"),
        (
            dict(elements={"O": None}, zbl=True),
            r"elements must be an element for every type, which zbl needs, got \['O'\]",
        ),
        (dict(radial_embedding="gauss"), "radial_embedding must be one of"),
        (dict(num_splines=4, spline_span=5), "spline_span must be at most num_splines = 4, got 5"),
        (dict(pair_cutoff_p=1.0), "pair_cutoff_p must be a finite number ≥ 2, got 1.0"),
        (dict(lennard_jones=0.3), "lennard_jones must be None, a LennardJones or a mapping"),
        (
            dict(lennard_jones={"sigma": 1.0}),
            "lennard_jones must be a mapping with the keys sigma and epsilon",
        ),
        (dict(lennard_jones={**LJ, "cut": 1.0}), r"lennard_jones must be .* got \['cut'\]"),
        (dict(lennard_jones={**LJ, "epsilon": -1.0}), "lennard_jones.epsilon must be a finite number ≥ 0"),
        (
            dict(lennard_jones={**LJ, "sigma": [[1, 2], [3, 1]]}),
            "lennard_jones.sigma must be .* symmetric table",
        ),
        (
            dict(lennard_jones={**LJ, "sigma": [[1.0]]}),
            "lennard_jones.sigma must be one number or a table of 2 × 2",
        ),
        (dict(lennard_jones={**LJ, "sigma": [1.0, 2.0]}), "lennard_jones.sigma must be a finite number"),
        (
            dict(lennard_jones={**LJ, "exponent": 0}),
            "lennard_jones.exponent must be a finite number > 0, got 0",
        ),
        (dict(lennard_jones={**LJ, "style": "wca"}), "lennard_jones.style must be one of"),
        (
            dict(lennard_jones={**LJ, "trainable": "sigma"}),
            "lennard_jones.trainable must be a sequence among",
        ),
    ],
)
def test_configuration(changes, message):
    with pytest.raises(ValueError, match=message):
        AllegroConfig(**{**GOOD, **changes})


def test_numbers_of_numpy_and_torch_are_plain_data():
    given = dict(
        l_max=np.int64(1),
        cutoff=np.float32(3.0),
        avg_num_neighbors=np.float32(8.0),
        energy_shifts=np.array([1.0, 2.0]),
        energy_scales=torch.tensor([0.5, 2.0]),
    )
    config = AllegroConfig(**{**GOOD, **given})
    plain = dict(
        l_max=1, cutoff=3.0, avg_num_neighbors=8.0, energy_shifts=(1.0, 2.0), energy_scales=[0.5, 2.0]
    )
    assert config == AllegroConfig(**{**GOOD, **plain})
    assert AllegroConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_configurations_are_values():
    cutoffs = {"H": {"O": 2.0}, "O": 2.5}
    configs = [AllegroConfig(**GOOD, type_cutoffs=cutoffs, energy_shifts={"H": 1, "O": 2}) for _ in range(2)]
    cutoffs["H"]["O"] = 99.0
    assert configs[0].cutoff_matrix() == [[3.0, 2.0], [2.5, 2.5]]
    assert configs[0] == configs[1] and len(set(configs)) == 1
    assert AllegroConfig.from_dict(configs[0].to_dict()) == configs[0]


def test_unknown_and_missing_keys():
    with pytest.raises(ValueError, match=r"config must be a mapping with keys among .* got \['lmax'\]"):
        Allegro.from_config({**GOOD, "lmax": 2})
    with pytest.raises(ValueError, match="config must be a mapping with the keys type_names and cutoff"):
        Allegro.from_config({"type_names": ["H"]})


def vectors(e, dtype=torch.float64):
    return torch.ones(e, 3, dtype=dtype)


@pytest.mark.parametrize(
    "args, error, message",
    [
        (
            (vectors(1, torch.float32), [[0], [1]], [0, 1]),
            TypeError,
            "edge_vectors must be of dtype torch.float64",
        ),
        (
            (torch.ones(1, 2, dtype=torch.float64), [[0], [1]], [0, 1]),
            ValueError,
            r"edge_vectors must be of shape \(E, 3\)",
        ),
        (
            (vectors(2), [[1, 0], [0, 1]], [0, 1]),
            ValueError,
            "edge_index must be sorted by center, got center 1 before 0",
        ),
        (
            (vectors(1), [[0], [2]], [0, 1]),
            ValueError,
            r"edge_index must be within \[0, 2\), got values from 0 to 2",
        ),
        ((vectors(1), [[-1], [1]], [0, 1]), ValueError, r"edge_index must be within \[0, 2\)"),
        ((vectors(2), [[0], [1]], [0, 1]), ValueError, r"edge_index must be one column per row"),
        (
            (vectors(1), [[0], [1]], [0, 2]),
            ValueError,
            r"types must be within \[0, 2\), got values from 0 to 2",
        ),
        (
            (vectors(1) * float("nan"), [[0], [1]], [0, 1]),
            ValueError,
            r"edge_vectors must be finite, got .* at edge 0",
        ),
        ((vectors(1), [0, 1], [0, 1]), ValueError, r"edge_index must be of shape \(2, E\)"),
    ],
)
@pytest.mark.parametrize("folded", [False, True])
def test_calls(args, error, message, folded):
    model = Allegro(AllegroConfig(**GOOD))
    model = model.for_inference() if folded else model
    with pytest.raises(error, match=message):
        model(args[0], torch.tensor(args[1]), torch.tensor(args[2]))


def test_integer_dtypes():
    model = Allegro(AllegroConfig(**GOOD))
    with pytest.raises(TypeError, match=r"edge_index must be of dtype torch.int64, got torch.int32"):
        model(vectors(1), torch.tensor([[0], [1]], dtype=torch.int32), torch.tensor([0, 1]))


def test_autocast_is_refused():
    model = Allegro(AllegroConfig(**GOOD))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(RuntimeError, match="autocast must be disabled"),
    ):
        model(vectors(1), torch.tensor([[0], [1]]), torch.tensor([0, 1]))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("own, other", [("float32", "float64"), ("float64", "float32")])
def test_the_dtype_is_the_configuration_s(own, other, folded):
    """Of a float32 model float64 stays what is float64 always; weights take no other dtype."""
    model = Allegro(AllegroConfig(**GOOD, dtype=own, energy_shifts=0.1, energy_shifts_trainable=True))
    model = model.for_inference() if folded else model
    before = {name: t.clone() for name, t in (*model.named_parameters(), *model.named_buffers())}

    def unchanged():
        after = dict((*model.named_parameters(), *model.named_buffers()))
        return all(after[name].dtype == t.dtype and torch.equal(after[name], t) for name, t in before.items())

    torch.nn.ModuleList([model]).to("cpu", getattr(torch, own))
    assert unchanged()
    for dtype in (torch.bfloat16, torch.float16, getattr(torch, other)):
        with pytest.raises(TypeError, match=f"dtype must be {own}, which .* fixes, got {dtype}"):
            model.to(dtype)
    assert unchanged()


def test_weights_of_a_model_of_other_cutoffs_are_refused():
    state = Allegro(AllegroConfig(**GOOD, type_cutoffs={"H": 2.0})).state_dict()
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"\[\[3.0, 3.0\], \[3.0, 3.0\]\].* got \[\[2.0, 2.0\]"):
            Allegro(AllegroConfig(**GOOD)).load_state_dict(state, strict=strict)


X = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]], dtype=torch.float64)
TYPES = torch.tensor([0, 1])


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((X.float(), TYPES), TypeError, "positions must be torch.float64"),
        ((X * float("nan"), TYPES), ValueError, "positions"),
        ((X, TYPES[:1]), ValueError, r"types must have one per row of positions \(2\), got 1"),
        ((X, TYPES, torch.zeros(3, 3, dtype=torch.float64), True), ValueError, "cell"),
        ((X, TYPES, None, True), ValueError, "cell"),
        ((X, torch.tensor([0, 5])), ValueError, "types must be within"),
    ],
)
def test_evaluate(arguments, error, message):
    with pytest.raises(error, match=message):
        evaluate(Allegro(AllegroConfig(**GOOD)), *arguments)


def test_evaluate_without_gradients():
    model = Allegro(AllegroConfig(**GOOD))
    cell = 6.0 * torch.eye(3, dtype=torch.float64)
    expected = evaluate(model, X, TYPES, cell, True)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = evaluate(model, X.clone(), TYPES.clone(), cell.clone(), np.True_)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)
