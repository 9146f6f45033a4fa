"""The three presets on a GPU against float64 on the CPU.

``ALLEGRO_GPU_TESTS_ON=cpu`` runs them on the CPU, to check the tests themselves.
"""

import dataclasses
import os

import pytest
import torch

import localgraph
from allegro_model import Allegro, presets

DEVICE = os.environ.get("ALLEGRO_GPU_TESTS_ON", "cuda")
HERE = DEVICE == "cpu" or torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HERE, reason="no CUDA device")]


def water(molecules=27):
    """Positions, types and cell of a box of random molecules."""
    generator = torch.Generator().manual_seed(0)
    side = round(molecules ** (1 / 3))
    grid = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float64)] * 3) * 3.1
    bonds = torch.tensor([[0.0, 0, 0], [0.9572, 0, 0], [-0.24, 0.9266, 0]], dtype=torch.float64)
    turns = torch.linalg.qr(torch.randn(len(grid), 3, 3, dtype=torch.float64, generator=generator))[0]
    positions = (grid[:, None] + bonds @ turns).reshape(-1, 3)
    types = torch.tensor([1, 0, 0]).repeat(len(grid))
    return positions, types, torch.eye(3, dtype=torch.float64) * 3.1 * side


@pytest.mark.parametrize("zbl", [False, True])
@pytest.mark.parametrize(
    "precision, relative", [("float64", 1e-11), ("highest", 1e-5), ("high", 1e-2)], ids=str
)
@pytest.mark.parametrize("preset", ["spice_small", "spice_medium", "spice_large"])
def test_energies_and_forces(preset, precision, relative, zbl):
    """``high`` is TF32 on a GPU."""
    config = getattr(presets, preset)(["H", "O"], avg_num_neighbors=60.0)
    config = dataclasses.replace(config, zbl=zbl, type_cutoffs={"H": {"H": 4.0}})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Allegro(dataclasses.replace(config, dtype="float32"))
    exact = Allegro(dataclasses.replace(config, dtype="float64"))
    exact.load_state_dict(model.state_dict())
    used = exact if precision == "float64" else model
    positions, types, cell = water(27 if DEVICE == "cuda" else 8)
    graph = localgraph.neighbors(positions, exact.cutoffs, cell=cell, pbc=True, types=types)
    given = localgraph.edge_vectors(positions, graph, cell), graph.edge_index, types
    expected = localgraph.energies_and_edge_forces(exact, *given)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "float64" else precision)
    try:
        for potential in (used.for_inference().to(DEVICE), used.to(DEVICE)):
            found = localgraph.energies_and_edge_forces(potential, *(t.to(DEVICE) for t in given))
            for a, b in zip(found, expected, strict=True):
                scale = float((b - b.mean()).abs().max())
                torch.testing.assert_close(a.cpu(), b, rtol=0, atol=relative * scale)
    finally:
        torch.set_float32_matmul_precision(before)
