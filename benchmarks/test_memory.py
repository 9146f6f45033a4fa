"""How much memory do energy and forces allocate at their peak, beside the per-edge form and nequip-allegro?"""

from __future__ import annotations

import pytest
from benchmarks import bench_model
from benchmarks.systems import PRESETS, box, model, nequip_data
from ci.regressions.counting import peak_bytes

import localgraph


def _ours(preset, system):
    potential = model(preset).for_inference()
    return lambda: localgraph.energies_and_edge_forces(
        potential, system.vectors, system.graph.edge_index, system.types
    )


def _direct(preset, system):
    from allegro_model import direct

    potential = model(preset)

    def energies(r, index, types):
        return direct.atom_energies(potential, r, index, types)

    return lambda: localgraph.energies_and_edge_forces(
        energies, system.vectors, system.graph.edge_index, system.types
    )


def _nequip(preset, system):
    pytest.importorskip("allegro", reason="nequip-allegro is not installed")
    theirs, data = bench_model.reference_model(f"spice_{preset}").eval(), nequip_data(system)
    return lambda: theirs(dict(data))


PROVIDERS = {"allegro-model": _ours, "direct": _direct, "nequip-allegro": _nequip}


CASES = [
    pytest.param(provider, preset, marks=[pytest.mark.slow] if slow else [])
    for provider in PROVIDERS
    for preset in PRESETS
    for slow in [preset == "large" and provider != "allegro-model"]
]


@pytest.mark.parametrize("provider, preset", CASES)
def test_peak(timed, provider, preset):
    """The time is kept too; what is asked is ``peak_bytes``, which does not scatter."""
    system = box(2)
    call = PROVIDERS[provider](preset, system)
    call()
    timed(
        call,
        atoms=system.atoms,
        edges=system.edges,
        dtype="float32",
        parameters=sum(p.numel() for p in model(preset).parameters()),
        peak_bytes=peak_bytes(call),
    )
