"""Models and graphs that the tests share."""

import pytest
import torch

import allegro_model
import localgraph

SMALL = dict(
    type_names=["H", "C", "O"],
    cutoff=3.0,
    num_scalar_features=7,
    num_tensor_features=5,
    latent_width=12,
    scalar_embed_width=9,
    readout_width=6,
    embed_dim=6,
    avg_num_neighbors=8.0,
    energy_scales={"H": 1.1, "C": 0.7, "O": 1.9},
    energy_shifts={"H": -1.0, "C": 2.0, "O": 0.5},
    dtype="float64",
)


@pytest.fixture
def make():
    """A small model with some fields changed, reproducible by seed."""

    def build(seed=0, **changes):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return allegro_model.Allegro(allegro_model.AllegroConfig(**{**SMALL, **changes}))

    return build


@pytest.fixture
def cluster():
    """Positions, types, graph and edge vectors of a random cluster whose last atom has no neighbors."""

    def build(seed=0, num_atoms=9, cutoff=3.0, size=3.5):
        generator = torch.Generator().manual_seed(seed)
        positions = size * torch.rand(num_atoms, 3, dtype=torch.float64, generator=generator)
        positions = torch.cat([positions, torch.full((1, 3), 100.0, dtype=torch.float64)])
        types = torch.randint(0, 3, (num_atoms + 1,), generator=generator)
        graph = localgraph.neighbors(positions, cutoff)
        return positions, types, graph, localgraph.edge_vectors(positions, graph)

    return build
