"""Registers the toy model of conftest.py, whose path is the first argument, in a process of its own."""

import importlib.util
import sys

import torch

spec = importlib.util.spec_from_file_location("toys", sys.argv[1])
assert spec is not None and spec.loader is not None
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
torch.set_num_threads(1)
