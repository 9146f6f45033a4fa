"""How much memory do energy and forces allocate at their peak, beside the per-edge form and nequip-allegro?"""

from __future__ import annotations

import pytest
from benchmarks.providers import INFERENCE, Case
from benchmarks.systems import PRESETS, box
from ci.regressions.counting import peak_bytes

PROVIDERS = {"allegro-model": "eager", "direct": "direct", "nequip-allegro": "nequip-allegro"}
CASES = [
    pytest.param(provider, preset, marks=[pytest.mark.slow] if slow else [])
    for provider in PROVIDERS
    for preset in PRESETS
    for slow in [preset == "large" and provider != "allegro-model"]
]


@pytest.mark.parametrize("provider, preset", CASES)
def test_peak(timed, provider, preset):
    """The time is kept too; what is asked is ``peak_bytes``, which does not scatter."""
    if provider == "nequip-allegro":
        pytest.importorskip("allegro", reason="nequip-allegro is not installed")
    case = Case(preset, box(2))
    call = INFERENCE[PROVIDERS[provider]](case)
    call()
    timed(
        call,
        atoms=case.system.atoms,
        edges=case.system.edges,
        dtype="float32",
        parameters=sum(p.numel() for p in case.model.parameters()),
        peak_bytes=peak_bytes(call),
    )
