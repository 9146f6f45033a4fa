"""Systems that several test files share."""

import numpy as np
import pytest
import torch


def make_random_system(seed: int, atoms: int, pbc=(True, True, True), scale: float = 4.0):
    """Random positions, a skewed cell and periodic axes."""
    rng = np.random.default_rng(seed)
    positions = rng.normal(size=(atoms, 3)) * scale
    cell = rng.normal(size=(3, 3)) + np.eye(3) * scale
    return torch.tensor(positions), torch.tensor(cell), torch.tensor(pbc)


@pytest.fixture
def random_system():
    """The function (seed, atoms, pbc, scale) -> positions, cell, pbc."""
    return make_random_system
