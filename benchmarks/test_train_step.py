"""How long is a training step with its gradients beside its bare matrix products and nequip-allegro's?"""

from __future__ import annotations

import pytest
from benchmarks.providers import TRAINING, Case
from benchmarks.systems import PRESETS, box, tensors_of
from ci.regressions.counted import batch

PROVIDERS = {
    "products": "products",
    "eager": "eager",
    "full": "full",
    "nequip-allegro": "nequip-allegro eager",
}
CASES = [
    pytest.param(
        provider, preset, marks=[pytest.mark.slow] if provider == "full" or preset == "large" else []
    )
    for provider in PROVIDERS
    for preset in PRESETS
]


@pytest.mark.parametrize("provider, preset", CASES)
def test_step(timed, provider, preset):
    if provider == "nequip-allegro":
        pytest.importorskip("allegro", reason="nequip-allegro is not installed")
    system, case = box(2), Case(preset)
    module, loss_of = TRAINING[PROVIDERS[provider]](case)
    given = tensors_of(batch(system))

    def call():
        loss_of(given).backward()
        module.zero_grad()

    timed(
        call,
        reference="products" if provider in ("eager", "full") else None,
        atoms=system.atoms,
        edges=system.edges,
        dtype="float32",
        parameters=sum(p.numel() for p in case.model.parameters()),
    )
