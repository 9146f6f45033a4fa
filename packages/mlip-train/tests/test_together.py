"""Kernels built in groups: the numbers of kernels built alone, with fewer runs of the compiler."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._inductor import cpp_builder
from torch._inductor.cpu_vec_isa import valid_vec_isa_list
from torch._inductor.utils import fresh_cache

from mlip_train.steps import together
from mlip_train.steps.trace import compile_function

WEIGHT, DATA = (
    torch.randn(6, 6, dtype=torch.float64),
    (torch.randn(40, 6, dtype=torch.float64), torch.randint(20, (40,))),
)


def step(w, x, i):
    """A function of several kernels, with and without vectors, and its gradient."""
    w = w.detach().requires_grad_(True)
    h = x
    for _ in range(3):
        h = torch.nn.functional.silu(h @ w)
        atoms = torch.zeros(20, 6, dtype=x.dtype).index_add(0, i, h)
        h = atoms[i].sin() + h.cumsum(0)
    loss = (h.square().mean() + torch.sort(h[:, 0]).values.norm()).sqrt()
    return loss.detach(), *torch.autograd.grad(loss, w)


@pytest.fixture
def compiled(monkeypatch):
    """A function that compiles ``step`` again and returns its results and the number of runs of the compiler."""
    runs, real = [], cpp_builder.run_compile_cmd

    def run(*given, **options):
        runs.append(given)
        return real(*given, **options)

    monkeypatch.setattr(cpp_builder, "run_compile_cmd", run)

    def compiled():
        with fresh_cache(), torch._inductor.config.patch(compile_threads=1):
            together._Library.cache.clear()
            function, _ = compile_function(step, [WEIGHT], DATA)
            runs_before = len(runs)
            found = function(WEIGHT, *DATA)
        assert len(runs) == runs_before, "everything is built when the function is returned"
        return found, runs_before

    def counted():
        runs.clear()
        return compiled()

    return counted


@pytest.mark.slow
def test_groups_give_the_numbers_of_single_kernels(compiled, monkeypatch):
    valid_vec_isa_list()  # runs the compiler, once in a process
    grouped, runs = compiled()
    for expected, found in zip(step(WEIGHT, *DATA), grouped, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    monkeypatch.setattr(together, "_known", lambda: False)
    alone, runs_alone = compiled()
    assert all(torch.equal(a, b) for a, b in zip(grouped, alone, strict=True))
    assert runs_alone >= runs + 3, (runs, runs_alone)


def test_kernels_that_do_not_go_together_are_built_alone(compiled, monkeypatch):
    text = together._text
    monkeypatch.setattr(together, "_text", lambda kernels: text(kernels) + "\n#error no\n")
    for expected, found in zip(step(WEIGHT, *DATA), compiled()[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("template", ["", "{entry_func}", None])
def test_an_unknown_template_is_left_alone(monkeypatch, template):
    monkeypatch.setattr(together._Library, "suffix_template", template)
    collect = together.AsyncCompile.cpp_pybinding
    with together.kernels_together():
        assert together.AsyncCompile.cpp_pybinding is collect


@pytest.mark.slow
def test_a_second_run_of_an_architecture_compiles_nothing(tmp_path):
    """Other weights, energies and hash seed; what remains is to preprocess a header, which tells whether it changed."""
    here, builds = Path(__file__).parent, []
    for seed in ("1", "2"):
        file = tmp_path / f"{seed}.json"
        alone = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        script = [str(here / "scripts" / "compilation.py"), str(here / "conftest.py"), seed, str(file)]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *script],
            env=os.environ | alone | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        builds.append([command for command in json.loads(file.read_text()) if " -E " not in command])
    assert builds[0] and not builds[1], builds
