"""How fast are the tensor product and the edge–atom operators beside eager, einsum, e3nn, and reading memory once?"""

from __future__ import annotations

import pytest
import torch
from benchmarks.bench_kernels import EDGE_OPERATORS, edge_calls, product_calls

EDGES, ATOMS, CHANNELS = 4096, 100, 64
REFERENCES = {"compiled": "memory", "eager": "memory"}


@pytest.fixture(autouse=True)
def without_gradients():
    torch.compiler.reset()
    with torch.no_grad():
        yield


@pytest.mark.parametrize("l_max", [2, 3])
@pytest.mark.parametrize("operator", EDGE_OPERATORS)
@pytest.mark.parametrize("provider", ["compiled", "eager", "einsum", "memory"])
def test_edges_and_atoms(timed, provider, operator, l_max):
    call = edge_calls(operator, EDGES, ATOMS, CHANNELS, l_max)[provider]()
    parameters = {"operator": operator, "l_max": l_max, "channels": CHANNELS}
    sizes = dict(atoms=ATOMS, edges=EDGES, dtype="float32", parameters=parameters)
    timed(call, reference=REFERENCES.get(provider), **sizes)


@pytest.mark.parametrize("l_max", [2, 3])
@pytest.mark.parametrize("provider", ["compiled", "eager", "einsum", "e3nn", "memory"])
def test_tensor_product(timed, provider, l_max):
    if provider == "e3nn":
        pytest.importorskip("e3nn")
    call = product_calls(ATOMS, CHANNELS, l_max)[provider]()
    parameters = {"l_max": l_max, "channels": CHANNELS}
    sizes = dict(atoms=ATOMS, edges=0, dtype="float32", parameters=parameters)
    timed(call, reference=REFERENCES.get(provider), **sizes)
