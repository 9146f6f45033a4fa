"""Final evaluation and report of a run."""

from __future__ import annotations

import platform
import sys
import time

import torch

import localgraph


def environment() -> dict[str, str]:
    """Versions and machine, for the report."""
    import lightning

    import mlip_train

    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "mlip-train": mlip_train.__version__,
        "localgraph": localgraph.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()),
        "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }
