"""Assignment of frames to micro-batches within size budgets, and the share of one process with its position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from mlip_train.config.data import BatchConfig
from mlip_train.data.batches import Indices
from mlip_train.data.frames import FrameTable


class MicroBatch(NamedTuple):
    """What to collate: rows of the table (n,), weight sums of the global batch (3,), and whether it only fills up."""

    rows: Indices
    norms: NDArray[np.float64]
    filler: bool


class Plan(Sampler[MicroBatch]):
    """The micro-batches of one process in an epoch, from a position on.

    Micro-batches are planned for all processes alike from ``seed`` and ``epoch``, then dealt out in groups of
    ``world · accumulate``, one group per optimizer step. An incomplete last group is padded with zero-weight
    batches, so that every process takes the same number of steps and no frame counts twice.

    Parameters
    ----------
    table : FrameTable
        Frames.
    rows : (F,) int64
        Which of them.
    config : BatchConfig
        Budgets and accumulation.
    seed, epoch : int
        Determine the order.
    limit : float
        Part of the frames that an epoch uses, on top of the share of each source; drawn again each time.
    shuffle : bool
        False plans in table order, with the budgets scaled by ``config.evaluate`` and without accumulation.
    rank, world : int
        Of this process.

    Attributes
    ----------
    position : int
        Micro-batches of this process that are done; iteration begins there. The consumer increments it.
    batches : list of (n,) int64
        Rows of every micro-batch of all processes.

    Raises
    ------
    ValueError
        If no budget is given, or a single frame exceeds one, naming it.
    """

    def __init__(
        self,
        table: FrameTable,
        rows: Indices,
        config: BatchConfig,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        limit: float = 1.0,
    ):
        self.limit = limit
        self.table, self.rows, self.config, self.seed, self.shuffle = table, rows, config, seed, shuffle
        self.labels = table.label_weights
        self.share(rank, world)
        self.begin(epoch)

    def share(self, rank: int, world: int) -> None:
        """Make this the plan of process ``rank`` of ``world``."""
        self.rank, self.world = rank, world
        self.group = world * (self.config.accumulate if self.shuffle else 1)

    def begin(self, epoch: int, position: int = 0) -> None:
        """Plan an epoch from batch ``position`` on; at or beyond the end, from the first batch."""
        self.epoch = epoch
        generator = np.random.default_rng([self.seed, epoch]) if self.shuffle else None
        scale = 1.0 if self.shuffle else self.config.evaluate
        rows = self._drawn() if self.shuffle else self.rows
        atoms, edges = self.table.atom_counts[rows], self.table.edge_counts[rows]
        try:
            self.batches = [rows[b] for b in assign(atoms, edges, self.config, generator, scale)]
        except ValueError as e:
            worst = f" (the largest: {self.table.where(int(rows[edges.argmax()]))})" if len(edges) else ""
            raise ValueError(f"{e}{worst}") from None
        self.position = position if position < self.total else 0

    def _drawn(self) -> Indices:
        """Return the frames of this epoch: of each source its share, and of all these the limit."""
        shares = [source.config.share for source in self.table.sources]
        if self.limit == 1.0 and all(share == 1.0 for share in shares):
            return self.rows
        generator = np.random.default_rng([self.seed, self.epoch, 2])
        found, source = [], self.table.arrays["source"][self.rows]
        for number, share in enumerate(shares):
            rows = self.rows[source == number]
            whole, rest = divmod(round(share * len(rows)), max(len(rows), 1))
            found += [rows] * whole + [np.sort(generator.choice(rows, rest, replace=False))]
        drawn = np.concatenate(found)
        count = max(round(self.limit * len(drawn)), 1)
        if count >= len(drawn):
            return drawn
        return drawn[np.sort(generator.choice(len(drawn), count, replace=False))]

    @property
    def total(self) -> int:
        """Micro-batches of this process in the whole epoch."""
        groups = -(-len(self.batches) // self.group)
        return groups * self.group // self.world

    def __len__(self) -> int:
        return self.total - self.position

    def __iter__(self) -> Iterator[MicroBatch]:
        return map(self.batch, range(self.position, self.total))

    def batch(self, i: int) -> MicroBatch:
        """Return micro-batch ``i`` of this process, number ``i * world + rank`` of the epoch, or a filler."""
        number = i * self.world + self.rank
        first = number // self.group * self.group
        together = np.concatenate(self.batches[first : first + self.group])
        norms = np.array([part[together].sum() for part in self.labels])
        if number < len(self.batches):
            return MicroBatch(self.batches[number], norms, False)
        smallest = self.rows[int(np.argmin(self.table.edge_counts[self.rows]))]
        return MicroBatch(np.array([smallest]), norms, True)


def assign(
    atoms: Indices,
    edges: Indices,
    config: BatchConfig,
    generator: np.random.Generator | None,
    scale: float = 1.0,
) -> list[Indices]:
    """Divide frames into micro-batches within the budgets.

    Parameters
    ----------
    atoms, edges : (F,) int64
        Sizes of the frames.
    config : BatchConfig
        Budgets and buckets.
    generator : numpy Generator or None
        Draws the order; ``None`` keeps the frames in order (evaluation).
    scale : float
        Multiplies the budgets.

    Returns
    -------
    list of (n,) int64
        Every frame exactly once.

    Raises
    ------
    ValueError
        If no budget is given, or a single frame exceeds one.
    """
    sizes = {"frames": np.ones_like(atoms), "atoms": atoms, "edges": edges}
    budgets = {k: getattr(config, k) for k in sizes if getattr(config, k) is not None}
    if not budgets:
        raise ValueError("batch must set at least one of frames, atoms or edges, got none")
    for name, budget in budgets.items():
        if len(atoms) and sizes[name].max() > budget:
            worst = int(sizes[name].argmax())
            raise ValueError(
                f"batch.{name} must hold the largest frame ({int(sizes[name][worst])} {name}, row "
                f"{worst}), got {budget}"
            )
    limits = {
        name: max(budget * scale, float(sizes[name].max(initial=0))) for name, budget in budgets.items()
    }
    order = np.arange(len(atoms))
    if generator is not None:
        generator.shuffle(order)
        if config.buckets and len(order):
            mean = max(min(limits[n] / max(sizes[n].mean(), 1e-9) for n in limits), 1.0)
            width = max(int(mean * config.buckets), 1)
            blocks = [order[i : i + width] for i in range(0, len(order), width)]
            order = np.concatenate([b[np.argsort(edges[b], kind="stable")] for b in blocks])
    sums = {name: np.cumsum(sizes[name][order]) for name in limits}
    batches: list[Indices] = []
    start = 0
    while start < len(order):
        before = {name: total[start - 1] if start else 0 for name, total in sums.items()}
        ends = [int(np.searchsorted(sums[n], before[n] + limits[n], "right")) for n in limits]
        batches.append(order[start : max(min(ends), start + 1)])
        start += len(batches[-1])
    if generator is not None:
        generator.shuffle(batches)
    return batches
