"""What tests of Triton kernels need with no GPU: scripts in processes of their own, and the name of a GPU for them."""

import os
import subprocess
import sys

NAMED_GPU = r"""
import triton
from triton.backends.compiler import GPUTarget

class Driver:
    # names an architecture, which is all that the analysis of a kernel's source asks for
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(Driver())
"""
"""The beginning of a script whose kernels are traced or analyzed for sm_90, not launched."""


def run(script, *arguments, **environment):
    """What ``script`` prints; fails with what it says if it fails."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
