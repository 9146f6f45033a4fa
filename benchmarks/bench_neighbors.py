"""Neighbor lists of water at 6 Å beside vesin, matscipy and ASE; Verlet lists over a thousand MD steps.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_neighbors search    # again with OMP_NUM_THREADS=2
    OMP_NUM_THREADS=1 python -m benchmarks.bench_neighbors skin
    OMP_NUM_THREADS=1 python -m benchmarks.bench_neighbors systems --data ../shared/data/systems

Every provider is timed in turn, round after round in one process, and its least times are kept, on the wall
clock and in processor time, which a busy machine disturbs less; ratios are of those. For localgraph it is the
total: tensors in, sorted Graph of tensors out. The others get numpy arrays and return i, j, S as they come: vesin
unsorted unless noted, matscipy and ASE sorted by i. ``test_neighbors.py`` asks the same of smaller boxes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.common import DATA, RESULTS, Least, least_times, peak_mib, write_record
from benchmarks.systems import CUTOFF, water

from localgraph import allocate, edge_vectors, forces, neighbors, update


def _vesin(x: np.ndarray, cell: np.ndarray, pbc: Sequence[bool], order: bool) -> Callable[[], object]:
    from vesin import NeighborList

    options = dict(cutoff=CUTOFF, full_list=True, sorted=order, n_threads=torch.get_num_threads())
    return lambda: NeighborList(**options).compute(x, cell, pbc, "ijS")


def _matscipy(x: np.ndarray, cell: np.ndarray, pbc: Sequence[bool]) -> Callable[[], object]:
    from matscipy.neighbours import neighbour_list

    return lambda: neighbour_list("ijS", positions=x, cell=cell, pbc=pbc, cutoff=CUTOFF)


def _ase(x: np.ndarray, cell: np.ndarray, pbc: Sequence[bool]) -> Callable[[], object]:
    from ase.neighborlist import primitive_neighbor_list

    return lambda: primitive_neighbor_list("ijS", pbc, cell, x, CUTOFF)


def _localgraph(x: np.ndarray, cell: np.ndarray, pbc: Sequence[bool]) -> Callable[[], object]:
    positions, box = torch.tensor(x), torch.tensor(cell)
    return lambda: neighbors(positions, CUTOFF, box, pbc)


SEARCHES: dict[str, Callable[..., Callable[[], object]]] = {
    "localgraph": _localgraph,
    "vesin, unsorted": lambda *system: _vesin(*system, order=False),
    "vesin, sorted": lambda *system: _vesin(*system, order=True),
    "matscipy": _matscipy,
    "ASE": _ase,
}
"""Search by provider: positions, cell and periodic directions → a call."""


def milliseconds(best: dict[str, Least], share: int = 1) -> dict[str, dict[str, float]]:
    """Return wall-clock and processor times of each call in milliseconds, divided by ``share``."""
    return {
        kind: {name: round(1e3 * getattr(t, kind) / share, 4) for name, t in best.items()}
        for kind in Least._fields
    }


def bench_search(seconds: float) -> list[dict[str, object]]:
    """Time searches at about 10³, 10⁴ and 10⁵ atoms; at 10⁴ also as a slab, as a wire and as a droplet."""
    rows: list[dict[str, object]] = []
    for edge, axes in ((7, "xyz"), (15, "xyz"), (32, "xyz"), (15, "xy"), (15, "z"), (15, "")):
        x, cell = water(edge)
        pbc = [axis in axes for axis in "xyz"]
        asked = [name for name in SEARCHES if name != "ASE" or len(x) < 20_000]
        best = least_times({name: SEARCHES[name](x, cell, pbc) for name in asked}, seconds, 400, slowest=5.0)
        edges = neighbors(torch.tensor(x), CUTOFF, torch.tensor(cell), pbc).num_edges
        ratios = {}
        for kind in Least._fields:
            other = min(getattr(t, kind) for name, t in best.items() if name != "localgraph")
            ratios[kind] = round(getattr(best["localgraph"], kind) / other, 3)
        rows.append(
            {
                "atoms": len(x),
                "periodic": axes,
                "edges": edges,
                "threads": torch.get_num_threads(),
                "milliseconds": milliseconds(best),
                "localgraph_over_fastest_other": ratios,
                "cpu_nanoseconds_per_edge": round(1e9 * best["localgraph"].cpu / edges, 2),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


class FlexibleWater:
    """Harmonic bonds and angles, Lennard-Jones between oxygens, damped shifted charges: SPC/Fw, cut at 6 Å.

    Parameters of Wu, Tepper and Voth, J. Chem. Phys. 124, 024503 (2006); charges by Fennell and Gezelter,
    J. Chem. Phys. 124, 234104 (2006), α = 0.25 / Å. kcal/mol, Å.
    """

    def __init__(self, atoms: int) -> None:
        oxygen = torch.arange(atoms) % 3 == 0
        self.charges = torch.where(oxygen, -0.82, 0.41).to(torch.float64)
        self.oxygen = oxygen
        self.molecule = torch.arange(atoms) // 3
        self.masses = torch.where(oxygen, 15.9994, 1.008).to(torch.float64)

    def energy_and_forces(
        self, x: torch.Tensor, cell: torch.Tensor, graph
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the energy, kcal/mol, and forces (N, 3), kcal/mol/Å."""
        r = edge_vectors(x, graph, cell).requires_grad_()
        d = r.norm(dim=1)
        i, j = graph.edge_index
        inside = d < CUTOFF
        other = inside & (self.molecule[i] != self.molecule[j])
        alpha, rc = 0.25, torch.tensor(CUTOFF, dtype=torch.float64)
        shift = torch.erfc(alpha * rc) / rc
        slope = shift / rc + 2 * alpha / torch.pi**0.5 * torch.exp(-((alpha * rc) ** 2)) / rc
        pair = (
            332.0637
            * self.charges[i]
            * self.charges[j]
            * (torch.erfc(alpha * d) / d - shift + slope * (d - rc))
        )
        s6 = (3.165492 / d) ** 6
        pair = pair + torch.where(self.oxygen[i] & self.oxygen[j], 4 * 0.1554253 * (s6 * s6 - s6), 0.0)
        # keeps hydrogens, which have no Lennard-Jones term, out of the oxygens of other molecules
        pair = pair + torch.where(self.oxygen[i] != self.oxygen[j], 0.5 * (1.6 / d) ** 12, 0.0)
        energy = 0.5 * torch.where(other, pair, 0.0).sum()
        y = x.detach().requires_grad_()
        m = y.reshape(-1, 3, 3)
        a, b = m[:, 1] - m[:, 0], m[:, 2] - m[:, 0]
        la, lb = a.norm(dim=1), b.norm(dim=1)
        angle = torch.arccos(((a * b).sum(1) / (la * lb)).clamp(-0.9999, 0.9999))
        inner = 0.5 * 1059.162 * ((la - 1.012) ** 2 + (lb - 1.012) ** 2).sum()
        inner = inner + 0.5 * 75.90 * ((angle - np.radians(113.24)) ** 2).sum()
        g, h = torch.autograd.grad(energy + inner, (r, y))
        return (energy + inner).detach(), forces(g, graph.edge_index, graph.num_atoms) - h


def dynamics(x: torch.Tensor, cell: torch.Tensor, steps: int, warm: int = 600) -> list[torch.Tensor]:
    """Return the positions of ``steps`` velocity-Verlet steps of 0.5 fs near 300 K, after ``warm`` rescaled ones."""
    force_field, dt, unit = FlexibleWater(len(x)), 0.5, 4.184e-4  # kcal/mol/Å/u in Å/fs²
    mass = force_field.masses[:, None]
    boltzmann = 0.0019872 * unit
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(x.shape, dtype=x.dtype, generator=generator) * (boltzmann * 300 / mass).sqrt()
    kept = allocate(x, CUTOFF, cell, True, skin=1.0)
    for _ in range(300):  # downhill by bounded steps: molecules of the packed start overlap
        kept = update(kept, x)
        _, f = force_field.energy_and_forces(x, cell, kept.graph)
        x = x + (1e-3 * f).clamp(-0.03, 0.03)
    kept = update(kept, x)
    _, f = force_field.energy_and_forces(x, cell, kept.graph)
    trajectory = []
    for step in range(-warm, steps):
        v = v + 0.5 * dt * unit * f / mass
        x = x + dt * v
        kept = update(kept, x)
        _, f = force_field.energy_and_forces(x, cell, kept.graph)
        v = v + 0.5 * dt * unit * f / mass
        temperature = float((mass * v * v).mean() / boltzmann)
        if step < 0:
            v = v * (300.0 / max(temperature, 1.0)) ** 0.5
        else:
            trajectory.append(x)
        if step <= 0:
            start = kept.rebuilds
    print(f"temperature at the end {temperature:.0f} K, {kept.rebuilds - start} rebuilds at 1 Å", flush=True)
    return trajectory


def bench_skin(edge: int, steps: int, skins: tuple[float, ...]) -> list[dict[str, object]]:
    """Time a Verlet list over a trajectory beside a search at each of its steps."""
    x, cell = water(edge)
    box = torch.tensor(cell)
    trajectory = dynamics(torch.tensor(x), box, steps)

    def each() -> None:
        for y in trajectory:
            neighbors(y, CUTOFF, box, True)

    rebuilds = {}

    def kept(skin: float) -> None:
        now = allocate(trajectory[0], CUTOFF, box, True, skin=skin)
        for y in trajectory:
            now = update(now, y)
        rebuilds[skin] = now.rebuilds

    calls: dict[str, Callable[[], object]] = {"each": each}
    calls |= {f"{skin}": lambda skin=skin: kept(skin) for skin in skins}
    times = least_times(calls, 0.0, rounds=3)
    rows: list[dict[str, object]] = []
    for skin in skins:
        best = {"each": times["each"], "kept": times[f"{skin}"]}
        rows.append(
            {
                "atoms": len(x),
                "steps": steps,
                "femtoseconds_per_step": 0.5,
                "skin": skin,
                "rebuilds": rebuilds[skin],
                "threads": torch.get_num_threads(),
                "milliseconds_per_step": milliseconds(best, steps),
                "search_each_step_over_kept": {
                    kind: round(getattr(best["each"], kind) / getattr(best["kept"], kind), 2)
                    for kind in Least._fields
                },
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def bench_systems(data: Path) -> list[dict[str, object]]:
    """Measure time and memory of DHFR and cellulose from the files of those systems."""
    import ase.io

    from localgraph.hosts.ase import from_atoms

    rows: list[dict[str, object]] = []
    for name in ("dhfr_23558.xyz", "cellulose_408609.xyz.gz"):
        x, cell, pbc = from_atoms(ase.io.read(data / name))
        before = peak_mib()
        graph = neighbors(x, CUTOFF, cell, pbc)
        peak = (peak_mib() - before) * 2**20
        size, edges = sum(t.nbytes for t in graph), graph.num_edges
        del graph
        best = least_times({"localgraph": lambda x=x, c=cell, p=pbc: neighbors(x, CUTOFF, c, p)}, 5.0)
        rows.append(
            {
                "system": name,
                "atoms": len(x),
                "edges": edges,
                "threads": torch.get_num_threads(),
                "milliseconds": milliseconds(best),
                "graph_megabytes": round(size / 1e6, 1),
                "peak_megabytes_over_start": round(peak / 1e6, 1),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["search", "skin", "systems"])
    parser.add_argument("--seconds", type=float, default=30.0, help="of search per size")
    parser.add_argument("--edge", type=int, default=6, help="molecules along the box of the dynamics")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA / "systems",
        help="folder with dhfr_23558.xyz and cellulose_408609.xyz.gz",
    )
    parser.add_argument(
        "--out", type=Path, help="JSON file; by default benchmarks/results/neighbors_<what>.json"
    )
    arguments = parser.parse_args()
    if arguments.what == "search":
        rows = bench_search(arguments.seconds)
    elif arguments.what == "skin":
        rows = bench_skin(arguments.edge, arguments.steps, (0.5, 1.0, 1.5))
    else:
        rows = bench_systems(arguments.data)
    out = arguments.out or RESULTS / f"neighbors_{arguments.what}_{torch.get_num_threads()}.json"
    write_record(out, rows=rows)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
