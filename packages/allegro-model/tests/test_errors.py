"""Bad input is an exception that names the argument, what was required and what came."""

import pytest
import torch

from allegro_model import Allegro, AllegroConfig, evaluate, types_of

GOOD = dict(type_names=["H", "O"], cutoff=3.0)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(cutoff=0), r"cutoff: required a finite number > 0, got 0"),
        (dict(cutoff=-1.0), r"cutoff: required .* got -1.0"),
        (dict(cutoff=float("nan")), r"cutoff: required .* got nan"),
        (dict(type_names=[]), "type_names: required at least one"),
        (dict(type_names="HO"), "type_names: required a sequence"),
        (dict(type_names=["H", "H"]), "type_names: required distinct"),
        (dict(type_names=["H", "Xx"]), "type_names: required element symbols .* got 'Xx'"),
        (dict(l_max=0), "l_max: required an integer ≥ 1, got 0"),
        (dict(num_layers=1.5), "num_layers: required an integer"),
        (dict(embed_dim=7), "embed_dim: required an even number, got 7"),
        (dict(latent_nonlinearity="softplus"), "latent_nonlinearity: required None or one of"),
        (dict(dtype="bfloat16"), "dtype: required one of"),
        (dict(avg_num_neighbors=0.0), "avg_num_neighbors: required a finite number > 0"),
        (dict(energy_shifts={"H": 1.0}), "energy_shifts: required exactly the keys"),
        (dict(energy_scales=[1.0]), "energy_scales: required 2 numbers"),
        (dict(energy_scales=[1.0, float("inf")]), "energy_scales: required finite numbers"),
        (dict(type_cutoffs={"C": 2.0}), r"type_cutoffs: required keys among \['H', 'O'\], got \['C'\]"),
        (dict(type_cutoffs={"H": {"C": 2.0}}), "type_cutoffs.H: required keys"),
        (dict(type_cutoffs={"H": 3.5}), "type_cutoffs.H: required at most cutoff"),
        (dict(zbl="yes"), "zbl: required true or false"),
        (dict(polynomial_cutoff_p=1), "polynomial_cutoff_p: required a number ≥ 2"),
    ],
)
def test_configuration(changes, message):
    with pytest.raises(ValueError, match=message):
        AllegroConfig(**{**GOOD, **changes})


def test_unknown_and_missing_keys():
    with pytest.raises(ValueError, match=r"config: required keys among .* got \['lmax'\]"):
        Allegro.from_config({**GOOD, "lmax": 2})
    with pytest.raises(ValueError, match="config: required the keys type_names and cutoff"):
        Allegro.from_config({"type_names": ["H"]})


def vectors(e, dtype=torch.float64):
    return torch.ones(e, 3, dtype=dtype)


@pytest.mark.parametrize(
    "args, error, message",
    [
        (
            (vectors(1, torch.float32), [[0], [1]], [0, 1]),
            TypeError,
            "edge_vectors: required dtype torch.float64",
        ),
        (
            (torch.ones(1, 2, dtype=torch.float64), [[0], [1]], [0, 1]),
            ValueError,
            r"edge_vectors: required shape \(E, 3\)",
        ),
        (
            (vectors(2), [[1, 0], [0, 1]], [0, 1]),
            ValueError,
            "edge_index: required edges sorted by centre, got centre 1 before 0",
        ),
        (
            (vectors(1), [[0], [2]], [0, 1]),
            ValueError,
            r"edge_index: required atoms in \[0, 2\), got values from 0 to 2",
        ),
        ((vectors(1), [[-1], [1]], [0, 1]), ValueError, r"edge_index: required atoms in \[0, 2\)"),
        ((vectors(2), [[0], [1]], [0, 1]), ValueError, r"edge_index: required one column per row"),
        (
            (vectors(1), [[0], [1]], [0, 2]),
            ValueError,
            r"types: required values in \[0, 2\), got values from 0 to 2",
        ),
        (
            (vectors(1) * float("nan"), [[0], [1]], [0, 1]),
            ValueError,
            r"edge_vectors: required finite numbers, got .* at edge 0",
        ),
        ((vectors(1), [0, 1], [0, 1]), ValueError, r"edge_index: required shape \(2, E\)"),
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
    with pytest.raises(TypeError, match=r"edge_index: required dtype torch.int64, got torch.int32"):
        model(vectors(1), torch.tensor([[0], [1]], dtype=torch.int32), torch.tensor([0, 1]))


X = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]], dtype=torch.float64)
TYPES = torch.tensor([0, 1])


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((X.float(), TYPES), TypeError, "positions: required dtype torch.float64"),
        ((X * float("nan"), TYPES), ValueError, "positions"),
        ((X, TYPES[:1]), ValueError, r"types: required one per row of positions \(2\), got 1"),
        ((X, TYPES, torch.zeros(3, 3, dtype=torch.float64), True), ValueError, "cell"),
        ((X, TYPES, None, True), ValueError, "cell"),
        ((X, torch.tensor([0, 5])), ValueError, "types: required values in"),
    ],
)
def test_evaluate(arguments, error, message):
    with pytest.raises(error, match=message):
        evaluate(Allegro(AllegroConfig(**GOOD)), *arguments)


def test_unknown_element():
    with pytest.raises(ValueError, match=r"symbols: required elements among \['H', 'O'\], got \['Xe'\]"):
        types_of(["H", "Xe"], ["H", "O"])
