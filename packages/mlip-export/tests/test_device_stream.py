"""The plugin's C++ on a stream of its caller, as the Kokkos pair style calls it; torch's side of it is a record."""

import subprocess
from pathlib import Path

import torch

import mlip_export.lammps
from mlip_export.lammps._build import compiler


def test_runs_on_the_stream_of_the_caller(water_pt2, tmp_path):
    """It enters the stream for the call alone, also where that fails."""
    root, source = Path(torch.__file__).parent, mlip_export.lammps.sources() / "src"
    program = tmp_path / "program"
    includes = [root / "include", root / "include/torch/csrc/api/include", source]
    command = [*compiler(), "-std=c++20", "-O0", "-w", *(f"-I{p}" for p in includes)]
    command += [str(Path(__file__).with_name("device_stream.cpp")), str(source / "edge_potential.cpp")]
    libraries = ["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{root / 'lib'}"]
    subprocess.run([*command, "-o", str(program), f"-L{root / 'lib'}", *libraries], check=True)
    done = subprocess.run([program, water_pt2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "stream 16 of -1; left; " * 2 + "stream must be one of GPU -1, got one that torch refuses\n"
    )


def test_torch_for_cpus_takes_no_streams(tmp_path):
    program = tmp_path / "program"
    text = '#include "device_stream.h"\nint main() { return mlip::takes_streams(); }\n'
    command = [*compiler(), "-std=c++20", f"-I{mlip_export.lammps.sources() / 'src'}", "-x", "c++", "-"]
    subprocess.run([*command, "-o", str(program)], input=text, text=True, check=True)
    assert subprocess.run([program]).returncode == 0
