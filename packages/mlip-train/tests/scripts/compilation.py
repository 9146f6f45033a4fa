"""Compiles the step of a toy drawn with a seed (argument 2) and writes the compiler's commands as JSON (argument 3)."""

import json
import sys
from pathlib import Path

import torch
from prelude import toys
from torch._inductor import cpp_builder

from mlip_train.config import LossConfig
from mlip_train.steps.compiled import compile_step
from mlip_train.steps.trace import example_batch

commands, real = [], cpp_builder.run_compile_cmd


def run(command, *given, **options):
    commands.append(command)
    return real(command, *given, **options)


cpp_builder.run_compile_cmd = run
torch.manual_seed(int(sys.argv[2]))
model = toys.ToyModel({"type_names": ["H", "O"], "cutoff": 4.0, "energy_shifts": torch.randn(2).tolist()})
batch = example_batch()
count = len(batch.positions)
centers = torch.sort(torch.arange(batch.edges.shape[1]) % count)[0]
batch = batch._replace(
    positions=torch.randn(count, 3, dtype=torch.float64),
    edges=torch.stack([centers, (centers + 1) % count]).int(),
)
weights = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
step, eager = (compile_step(model, LossConfig(), mode)(batch, weights).loss for mode in ("full", "eager"))
torch.testing.assert_close(step, eager)
Path(sys.argv[3]).write_text(json.dumps(commands))
