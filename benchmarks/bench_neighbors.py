"""Neighbor lists of water at 6 Å beside vesin, matscipy and ASE; Verlet lists over a thousand MD steps.

    OMP_NUM_THREADS=1 python benchmarks/bench_neighbors.py search    # again with OMP_NUM_THREADS=2
    OMP_NUM_THREADS=1 python benchmarks/bench_neighbors.py skin
    OMP_NUM_THREADS=1 python benchmarks/bench_neighbors.py systems --data ../shared/data/systems

Every provider is timed in turn, round after round in one process, and its least times are kept, on the wall
clock and in processor time, which a busy machine disturbs less; ratios are of those. For localgraph it is the
total: tensors in, sorted Graph of tensors out. The others get numpy arrays and return i, j, S as they come: vesin
unsorted unless said, matscipy and ASE sorted by i.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from localgraph import allocate, edge_vectors, forces, neighbors, update

CUTOFF = 6.0
RESULTS = Path(__file__).parent / "results"


def water(molecules_per_edge: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Water at 1 g/cc: randomly turned rigid molecules on a jittered grid, in random order; O, H, H each."""
    rng = np.random.default_rng(seed)
    number = molecules_per_edge**3
    spacing = (18.01528 / 0.602214076) ** (1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(molecules_per_edge)] * 3, indexing="ij"), -1).reshape(-1, 3)
    centers = (rng.permutation(grid) + 0.1 * rng.normal(size=(number, 3))) * spacing
    q, _ = np.linalg.qr(rng.normal(size=(number, 3, 3)))
    half = np.radians(104.52 / 2)
    molecule = 0.9572 * np.array(
        [[0, 0, 0], [np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]]
    )
    positions = centers[:, None] + molecule @ q
    return positions.reshape(-1, 3), np.eye(3) * spacing * molecules_per_edge


class Least(NamedTuple):
    """Least wall-clock and least processor time of a call, seconds; they need not be of the same round."""

    wall: float
    cpu: float


def least_times(
    calls: dict[str, Callable[[], object]], seconds: float, rounds: int = 400
) -> dict[str, Least]:
    """Least times of each call: three rounds of all, then in turn of those near the fastest for ``seconds``."""
    best = dict.fromkeys(calls, Least(float("inf"), float("inf")))
    near, begin = calls, 0.0
    for number in range(rounds):
        if number == 3:
            limit = max(0.2, 5 * min(t.wall for t in best.values()))
            near = {name: call for name, call in calls.items() if best[name].wall <= limit}
            begin = time.perf_counter()
        for name, call in near.items():
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            result = call()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            best[name] = Least(min(best[name].wall, wall), min(best[name].cpu, cpu))
            del result
        if number >= 3 and time.perf_counter() - begin > seconds:
            break
    return best


def milliseconds(best: dict[str, Least], share: int = 1) -> dict[str, dict[str, float]]:
    """Wall-clock and processor times of each call in milliseconds, divided by ``share``."""
    return {
        kind: {name: round(1e3 * getattr(t, kind) / share, 4) for name, t in best.items()}
        for kind in Least._fields
    }


def bench_search(seconds: float) -> list[dict[str, object]]:
    """Search times at about 10³, 10⁴ and 10⁵ atoms; at 10⁴ also as a slab, as a wire and as a droplet."""
    from ase.neighborlist import primitive_neighbor_list
    from matscipy.neighbours import neighbour_list
    from vesin import NeighborList

    rows: list[dict[str, object]] = []
    threads = torch.get_num_threads()
    for edge, axes in ((7, "xyz"), (15, "xyz"), (32, "xyz"), (15, "xy"), (15, "z"), (15, "")):
        x, cell = water(edge)
        positions, box = torch.tensor(x), torch.tensor(cell)
        pbc = [axis in axes for axis in "xyz"]

        def vesin(order: bool, x: np.ndarray = x, cell: np.ndarray = cell, pbc: list[bool] = pbc) -> object:
            return NeighborList(cutoff=CUTOFF, full_list=True, sorted=order, n_threads=threads).compute(
                x, cell, pbc, "ijS"
            )

        calls: dict[str, Callable[[], object]] = {
            "localgraph": lambda p=positions, b=box, pbc=pbc: neighbors(p, CUTOFF, b, pbc),
            "vesin, unsorted": lambda: vesin(False),
            "vesin, sorted": lambda: vesin(True),
            "matscipy": lambda x=x, c=cell, p=pbc: neighbour_list(
                "ijS", positions=x, cell=c, pbc=p, cutoff=CUTOFF
            ),
        }
        if len(x) < 20_000:
            calls["ASE"] = lambda x=x, c=cell, p=pbc: primitive_neighbor_list("ijS", p, c, x, CUTOFF)
        best = least_times(calls, seconds)
        edges = neighbors(positions, CUTOFF, box, pbc).num_edges
        ratios = {
            kind: round(
                getattr(best["localgraph"], kind)
                / min(getattr(t, kind) for name, t in best.items() if name != "localgraph"),
                3,
            )
            for kind in Least._fields
        }
        rows.append(
            {
                "atoms": len(x),
                "periodic": axes,
                "edges": edges,
                "threads": threads,
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
        """Energy, kcal/mol, and forces (N, 3), kcal/mol/Å."""
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
        return (energy + inner).detach(), forces(g, graph) - h


def dynamics(x: torch.Tensor, cell: torch.Tensor, steps: int, warm: int = 600) -> list[torch.Tensor]:
    """Positions of ``steps`` velocity-Verlet steps of 0.5 fs near 300 K, after ``warm`` rescaled ones."""
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
    """Amortized cost of a Verlet list over a trajectory against a search at each of its steps."""
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
    """Time and memory of DHFR and cellulose from the files of those systems."""
    import ase.io

    from localgraph.ase import from_atoms

    rows: list[dict[str, object]] = []
    for name in ("dhfr_23558.xyz", "cellulose_408609.xyz.gz"):
        x, cell, pbc = from_atoms(ase.io.read(data / name))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        graph = neighbors(x, CUTOFF, cell, pbc)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
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
                "peak_megabytes_over_start": round(peak * 1024 / 1e6, 1),
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
    parser.add_argument("--data", type=Path, help="folder with dhfr_23558.xyz and cellulose_408609.xyz.gz")
    parser.add_argument(
        "--out", type=Path, help="JSON file; by default benchmarks/results/neighbors_<what>.json"
    )
    arguments = parser.parse_args()
    if arguments.what == "search":
        rows = bench_search(arguments.seconds)
    elif arguments.what == "skin":
        rows = bench_skin(arguments.edge, arguments.steps, (0.5, 1.0, 1.5))
    else:
        if arguments.data is None:
            parser.error("systems needs --data")
        rows = bench_systems(arguments.data)
    kept = ("OMP_NUM_THREADS", "GLIBC_TUNABLES")
    record = {
        "command": " ".join(["python", *sys.argv]),
        "environment": {k: os.environ[k] for k in kept if k in os.environ},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
        "rows": rows,
    }
    out = arguments.out or RESULTS / f"neighbors_{arguments.what}_{torch.get_num_threads()}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
