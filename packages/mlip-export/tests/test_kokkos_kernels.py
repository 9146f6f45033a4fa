"""The kernels of allegro/kk against plain loops, on a host; skipped where no Kokkos is.

``KOKKOS_ROOT`` names a prefix; otherwise /usr is searched (Debian's libtrilinos-kokkos-dev).
"""

import os
import subprocess
from pathlib import Path

import pytest

import mlip_export.lammps
from mlip_export.lammps._build import compiler

ROOT = Path(os.environ.get("KOKKOS_ROOT", "/usr"))


def one_of(*patterns):
    return next((path for pattern in patterns for path in sorted(ROOT.glob(pattern))), None)


def test_edges_and_forces_are_those_of_plain_loops(tmp_path):
    header = one_of("include/Kokkos_Core.hpp", "include/*/Kokkos_Core.hpp")
    library = one_of("lib*/lib*kokkoscore.so", "lib/*/lib*kokkoscore.so")
    if header is None or library is None:
        pytest.skip(f"no Kokkos under {ROOT}")
    source = Path(__file__).with_name("kokkos_kernels.cpp")
    kernels = mlip_export.lammps.sources() / "kokkos"
    command = [*compiler(), "-std=c++20", "-O1", "-w", f"-I{header.parent}", f"-I{kernels}", str(source)]
    program = tmp_path / "kernels"
    command += ["-o", str(program), str(library), f"-Wl,-rpath,{library.parent}", "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    assert subprocess.run([program], capture_output=True, text=True).stdout == "equal\n"
