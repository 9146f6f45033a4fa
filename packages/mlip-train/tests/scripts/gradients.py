"""Gradients and losses of the cases in JSON (argument 3), by one of several processes, in WORLD.json."""

import json
import sys

import numpy as np
import torch
import torch.distributed as dist
from prelude import toys

from mlip_train.config import BatchConfig, LossConfig, SourceConfig
from mlip_train.data.build import build_table
from mlip_train.data.loader import make_loader
from mlip_train.data.plan import Plan
from mlip_train.steps.eager import EagerStep
from mlip_train.training.ddp import Overlapped, broadcast_state, reduce_gradients

folder, cases = sys.argv[2], json.loads(sys.argv[3])
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
results = []
for case in cases:
    torch.manual_seed(100 + rank if case["seeds"] else 100)
    model = toys.ToyModel(
        {"type_names": ["H", "O"], "cutoff": 4.0, "energy_shifts": [-9.0, -12.0], "dtype": case["dtype"]}
    )
    model.unused = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    model.sometimes = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    broadcast_state(model)
    source, cache = SourceConfig(path=folder + "/f.xyz"), f"{folder}/cache{rank}of{world}"
    table = build_table([source], ["H", "O"], model.cutoffs, cache)
    config = BatchConfig(frames=3, accumulate=case["group"] // world)
    loader = make_loader(Plan(table, np.arange(case["frames"]), config, seed=1, rank=rank, world=world))
    step = EagerStep(model, LossConfig())
    weights = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    found, losses, local = [], [], torch.zeros((), dtype=torch.float64)
    parameters = list(model.parameters())
    # The other way round, as buckets wait for those before them, and the first would hold the parameter never used.
    overlapped = Overlapped(parameters[::-1], "sum", case["bucket"]) if case["overlap"] else None
    for i, batch in enumerate(loader):
        loss = step(batch, weights).loss
        if case["unused"] and batch.row[0] % 2 == 0 and batch.row[0] >= 0:
            loss = loss + (model.sometimes**2).sum() * float(batch.row[0])
        last = (i + 1) % config.accumulate == 0
        if overlapped is not None:
            overlapped.paused = not last
        loss.backward()
        local += loss.detach()
        if last:
            if overlapped is not None:
                overlapped.finish()
            else:
                reduce_gradients(parameters, bucket_mib=case["bucket"])
            dist.all_reduce(local)
            losses.append(float(local))
            local.zero_()
            named = model.named_parameters()
            found.append({n: None if p.grad is None else p.grad.flatten().tolist() for n, p in named})
            model.zero_grad()
    results.append([found, losses, 0 if overlapped is None else overlapped.during])
if rank == 0:
    with open(f"{folder}/{world}.json", "w") as f:
        json.dump(results, f)
dist.destroy_process_group()
