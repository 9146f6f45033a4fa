"""The architecture of a GPU: what the metadata records, and what hosts in Python and C++ compare it with."""

import dataclasses
import subprocess
from types import SimpleNamespace

import pytest
import torch

import mlip_export
import mlip_export.lammps
from mlip_export.lammps._build import compiler
from mlip_export.runtime import check_machine, gpu_architecture

CUDA_DRIVER = """
extern "C" int cuInit(unsigned) { return FAILS; }
extern "C" int cuDeviceGet(int *device, int index) { *device = index + 40; return index > 1; }
extern "C" int cuDeviceGetAttribute(int *value, int which, int device)
{
  *value = which == 75 ? (device == 40 ? 9 : 8) : 0;    // GPU 0 is an sm_90, GPU 1 an sm_80
  return which != 75 && which != 76;
}
"""
HIP_RUNTIME = """
#include <cstring>
extern "C" int hipGetDevicePropertiesR0600(char *record, int)
{
  std::strcpy(record, "AMD Instinct MI250X");
  std::strcpy(record + 1160, "gfx90a:sramecc+:xnack-");
  return 0;
}
"""
PROBE = """
#include "gpu_architecture.h"
#include <cstdlib>
#include <iostream>
int main(int count, char **words)
{
  if (count > 3) try {    // ranks of a machine, and its GPUs
    for (int rank = 0; rank < std::atoi(words[2]); rank++)
      std::cout << mlip::device_of_rank(rank, std::atoi(words[3])) << " ";
    return 0;
  } catch (const std::exception &error) {
    std::cout << error.what();
    return 0;
  }
  std::cout << mlip::architecture_problem(words[1], std::atoi(words[2]));
}
"""


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """A function of a model's architecture and a GPU: what the plugin's header says of them."""
    folder = tmp_path_factory.mktemp("driver")

    def built(text, *options):
        (folder / "source.cpp").write_text(text)
        subprocess.run([*compiler(), "-std=c++20", *options, str(folder / "source.cpp")], check=True)

    places = {}
    for name, text in (
        ("libcuda.so.1", CUDA_DRIVER.replace("FAILS", "0")),
        ("libamdhip64.so", HIP_RUNTIME),
        ("broken/libcuda.so.1", CUDA_DRIVER.replace("FAILS", "100")),
    ):
        place = folder / name
        place = place.with_name(f"{place.name.split('.')[0]}-here") / place.name
        place.parent.mkdir(parents=True)
        built(text, "-shared", "-fPIC", "-o", str(place))
        places[name] = place.parent
    built(PROBE, f"-I{mlip_export.lammps.sources() / 'src'}", "-o", str(folder / "probe"), "-ldl")

    def ask(isa, *numbers, driver=None):
        environment = {"LD_LIBRARY_PATH": str(places[driver])} if driver else {}
        return subprocess.run(
            [folder / "probe", isa, *map(str, numbers or (0,))],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    return ask


@pytest.mark.parametrize(
    "isa, index, driver, other",
    [
        ("sm_90", 0, "libcuda.so.1", None),
        ("sm_80", 1, "libcuda.so.1", None),
        ("sm_90", 1, "libcuda.so.1", "sm_80"),  # another GPU of the same machine
        ("sm_100", 0, "libcuda.so.1", "sm_90"),
        ("gfx90a", 0, "libcuda.so.1", "sm_90"),
        ("gfx90a", 0, "libamdhip64.so", None),
        ("gfx942", 0, "libamdhip64.so", "gfx90a"),
        ("sm_90", 0, "libamdhip64.so", "gfx90a"),  # whose compute capability is (9, 0) too
        ("sm_90", 0, None, None),  # not to be asked: the first call decides
        ("sm_90", 0, "broken/libcuda.so.1", None),
    ],
)
def test_the_plugin_compares_the_architecture(problem, isa, index, driver, other):
    expected = f"must be compiled for this GPU, which is {other}, got code for {isa}" if other else ""
    assert problem(isa, index, driver=driver) == expected


def _gpus(monkeypatch, *capabilities, hip=None):
    """Let torch report GPUs of these capabilities, under HIP with the name that it gives."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", "6.4" if hip else None)

    def index(device):
        return 0 if device is None or torch.device(device).index is None else torch.device(device).index

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capabilities[index(device)])
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device=None: SimpleNamespace(gcnArchName=hip)
    )


def test_the_recorded_architecture(monkeypatch):
    _gpus(monkeypatch, (9, 0), (8, 0))
    assert gpu_architecture(None) == gpu_architecture("cuda:0") == "sm_90"
    assert gpu_architecture(torch.device("cuda", 1)) == "sm_80"
    _gpus(monkeypatch, (9, 0), hip="gfx90a:sramecc+:xnack-")
    assert gpu_architecture("cuda") == "gfx90a"


@pytest.mark.parametrize(
    "isa, device, hip, problem",
    [
        ("sm_90", "cuda", None, None),
        ("sm_90", "cuda:1", None, "code for sm_90 on a GPU of sm_80"),
        ("sm_80", "cuda:1", None, None),
        ("gfx90a", "cuda", "gfx90a:xnack-", None),
        ("sm_90", "cuda", "gfx90a:xnack-", "code for sm_90 on a GPU of gfx90a"),
        ("gfx90a", "cuda", None, "code for gfx90a on a GPU of sm_90"),
    ],
)
def test_python_compares_the_architecture_of_the_device_asked_for(
    water_pt2, monkeypatch, isa, device, hip, problem
):
    _gpus(monkeypatch, (9, 0), (8, 0), hip=hip)
    metadata = dataclasses.replace(mlip_export.read_metadata(water_pt2), device="cuda", isa=isa)
    assert check_machine(metadata, torch.device(device)) == ([problem] if problem else [])


@pytest.mark.parametrize(
    "ranks, devices, expected",
    [
        (4, 4, "0 1 2 3 "),
        (6, 2, "0 1 0 1 0 1 "),  # more ranks than GPUs
        (3, 1, "0 0 0 "),
        (2, 8, "0 1 "),
        (1, 0, "a model compiled for cuda needs a GPU, got none on this machine"),
    ],
)
def test_ranks_take_gpus_in_turn(problem, ranks, devices, expected):
    assert problem("ranks", ranks, devices) == expected
