"""Lets test modules import what stands beside them (graphs.py), which import-mode importlib does not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
