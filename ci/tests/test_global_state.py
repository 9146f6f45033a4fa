"""Importing any package changes no default dtype, seed, thread count, device or environment, and probes no GPU.

Some dependencies do when they are imported: torch._dynamo, by way of e3nn, names its cache directory in the
environment; lightning draws a random number and sets a CUDA check. They are imported first, so that what is
measured is ours.
"""

import subprocess
import sys

import pytest

PROBE = """
import os, random
import numpy as np
import torch
{dependencies}
def state():
    return (torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed(), bytes(torch.get_rng_state()),
            random.getstate(), str(np.random.get_state()), dict(os.environ), torch.get_default_device(),
            torch.cuda.is_initialized(), torch.are_deterministic_algorithms_enabled())
before = state()
import {module}
assert state() == before
"""


@pytest.mark.parametrize(
    "module, dependencies",
    [
        ("equitensor", ""),
        ("localgraph", ""),
        ("allegro_model", ""),
        ("mlip_train", "import torch._dynamo, lightning.pytorch"),
        ("mlip_export", ""),
        ("mlip_export.ase", ""),
        ("spice_data", ""),
    ],
)
def test_import_has_no_side_effects(module, dependencies):
    probe = PROBE.format(module=module, dependencies=dependencies)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
