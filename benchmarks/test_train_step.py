"""How long is a training step with its gradients beside its bare matrix products and nequip-allegro's?"""

from __future__ import annotations

import pytest
import torch
from benchmarks import bench_model
from benchmarks.systems import bare_products, box, model, nequip_data
from ci.regressions.counted import batch

from mlip_train import compile_step
from mlip_train.config import LossConfig


def _ours(way, preset, system):
    potential = model(preset)
    given, weights = batch(system), torch.ones(3, dtype=torch.float64)
    step = compile_step(potential, LossConfig(), way)

    def call():
        step(given, weights).loss.backward()
        potential.zero_grad()

    return call


def _nequip(preset, system):
    pytest.importorskip("allegro", reason="nequip-allegro is not installed")
    from nequip.data import AtomicDataDict

    theirs = bench_model.reference_model(f"spice_{preset}").train()
    data = nequip_data(system)

    def call():
        out = theirs(dict(data))
        loss = out[AtomicDataDict.TOTAL_ENERGY_KEY].square().sum()
        (loss + out[AtomicDataDict.FORCE_KEY].square().mean()).backward()
        theirs.zero_grad()

    return call


PROVIDERS = {
    "products": lambda preset, system: bare_products(preset, system.edges, 3),
    "eager": lambda preset, system: _ours("eager", preset, system),
    "whole": lambda preset, system: _ours("full", preset, system),
    "nequip-allegro": _nequip,
}
CASES = [
    pytest.param(
        provider, preset, marks=[pytest.mark.slow] if provider == "whole" or preset == "large" else []
    )
    for provider in PROVIDERS
    for preset in ("small", "medium", "large")
]


@pytest.mark.parametrize("provider, preset", CASES)
def test_step(timed, provider, preset):
    system = box(2)
    timed(
        PROVIDERS[provider](preset, system),
        reference="products" if provider in ("eager", "whole") else None,
        atoms=system.atoms,
        edges=system.edges,
        dtype="float32",
        parameters=sum(p.numel() for p in model(preset).parameters()),
    )
