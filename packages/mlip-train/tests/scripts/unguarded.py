"""Builds a table with workers but without a main guard: arguments are a file of frames and a cache."""

import sys

import torch

from mlip_train import build_table
from mlip_train.config import SourceConfig

cutoffs = torch.full((2, 2), 4.0, dtype=torch.float64)
build_table([SourceConfig(path=sys.argv[1])], ["H", "O"], cutoffs, sys.argv[2], workers=1)
