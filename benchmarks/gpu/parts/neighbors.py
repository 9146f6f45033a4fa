"""Neighbor searches on the device beside vesin on the CPU, and a Verlet list from step to step."""

from __future__ import annotations

from typing import Any

import torch
from benchmarks.bench_neighbors import SEARCHES
from benchmarks.gpu.part import Part
from benchmarks.systems import CUTOFF, water
from torch import Tensor

from localgraph import Graph, VerletList, neighbors


def edges_of(graph: Graph) -> Tensor:
    """Return center, neighbor and shift of every edge, sorted; their order within a center is the algorithm's."""
    rows = torch.cat([graph.edge_index.T, graph.shifts.to(torch.int64)], 1).cpu()
    for column in reversed(range(rows.shape[1])):
        rows = rows[rows[:, column].argsort(stable=True)]
    return rows


def equal(graph: Graph, other: Graph) -> bool:
    """Return whether two graphs have the same edges."""
    return torch.equal(edges_of(graph), edges_of(other))


def measure(part: Part, molecules: int) -> dict[str, Any]:
    """Time the searches of one box, and a step of dynamics that needs no search."""
    x, cell = water(molecules)
    positions, box = (torch.tensor(a, device=part.device) for a in (x, cell))
    graph = neighbors(positions, CUTOFF, box, True)
    row: dict[str, Any] = {"atoms": len(x), "edges": graph.num_edges}
    row["search_ms"] = part.milliseconds(lambda: neighbors(positions, CUTOFF, box, True))
    row["vesin_cpu_ms"] = part.milliseconds(SEARCHES["vesin, sorted"](x, cell, [True] * 3))
    row["vesin_ms"] = part.attempt(  # on a GPU by its CUDA code
        f"{len(x)} atoms, vesin",
        lambda: part.milliseconds(lambda: neighbors(positions, CUTOFF, box, True, algorithm="vesin")),
    )
    edges = VerletList(CUTOFF, skin=1.0)
    moved = [positions + 0.01 * k for k in range(2)]
    edges.update(moved[0], box, True)

    def step() -> None:
        moved.reverse()
        edges.update(moved[0], box, True)

    row["update_ms"] = part.milliseconds(step)
    row["searches"] = edges.searches
    row["equal_to_cpu"] = equal(graph, neighbors(positions.cpu(), CUTOFF, box.cpu(), True))
    return row


def main() -> None:
    """Measure every size."""
    part = Part("neighbors")
    part.turn()
    rows = part.section.setdefault("rows", [])
    for molecules in part.pick((4, 7, 12, 15, 32), (2,)):
        found = part.attempt(f"{molecules} molecules along an edge", lambda m=molecules: measure(part, m))
        if found:
            rows.append(found)
    part.save()


if __name__ == "__main__":
    main()
