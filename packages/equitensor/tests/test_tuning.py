"""Tile configs of the Triton kernels: values of each, what is chosen and when, with no GPU."""

import pytest
import torch
from gpuless import NAMED_GPU, run

pytest.importorskip("triton")

VALUES = r"""
import torch
import equitensor as eq
from equitensor import reference
from equitensor.backends.triton import edge_atom, second, tensor_product
torch.manual_seed(0)
double = torch.float64
centers = torch.tensor([0] * 35 + [2])  # more than a turn of 32
offsets = eq.row_offsets(centers, 3)
tried = {}
def same(name, got, expected):
    torch.testing.assert_close(got, expected, atol=1e-11, rtol=0)
    tried[name] = tried.get(name, 0) + 1
for dims, channels in (((1, 3), 40), ((4,), 150), ((1,), 1)):
    w, y, f, s = (torch.randn(s, dtype=double) for s in (
        (36, len(dims), channels), (36, sum(dims)), (3, sum(dims), channels), (36, channels)))
    for name, given in (
        ("to_atoms", (w, y)), ("to_weights", (y, f)), ("to_basis", (w, f)), ("to_scalars", (w, y, f)),
        ("scaled_to_atoms", (w, y, s)), ("scaled_to_weights", (y, f, s)), ("scaled_to_basis", (w, f, s)),
    ):
        arguments = (*given, centers, offsets, list(dims))
        expected = getattr(reference, name)(*arguments)
        for config in edge_atom.configs_of(name, dims, channels, double):
            same(name, getattr(edge_atom, name)(*arguments, config), expected)
    arguments, name = (w, y, f, s, centers, offsets, dims), "to_scalars_backward"
    for config in edge_atom.configs_of(name, dims, channels, double):
        parts = edge_atom.to_scalars_backward(*arguments, config=config)
        for part, expected in zip(parts, reference.to_scalars_backward(*arguments), strict=True):
            same(name, part, expected)
    arguments, name = (w, y, f, s, w.flip(0), y.flip(0), f.flip(0), centers, offsets, dims), "to_scalars_second"
    for config in second.configs_of(dims, channels, double):
        parts = second.to_scalars_second(*arguments, config)
        for part, expected in zip(parts, reference.to_scalars_second(*arguments), strict=True):
            same(name, part, expected)
for irreps, channels in (("0e+1o", 100), ("1o+1e", 40)):
    tp = eq.TensorProduct(irreps, "0e+1o", irreps)
    dims = [sum(2 * ell + 1 for ell, _ in s) for s in tp.spec]
    given = [torch.randn(2, d, channels, dtype=double) for d in dims]
    weights = torch.randn(tp.weight_shape(channels), dtype=double)
    for slots in ((0, 1, 2), (2, 1, 0), (0, 2, 1)):
        arguments = (given[slots[0]], given[slots[1]], weights, tp.spec, slots)
        for config in tensor_product.configs_of(tp.spec, slots, channels, double):
            same("contract", tensor_product.contract(*arguments, config), reference.contract(*arguments))
    for config in tensor_product.configs_of(tp.spec, (0, 1, 2), channels, double):
        got = tensor_product.contract_weights(*given, tp.spec, True, config)
        same("contract_weights", got, reference.contract_weights(*given, tp.spec, True))
print(tried)
assert len(tried) == 11 and all(count >= 4 for count in tried.values()), tried
print("equal")
"""

# Fake times; kernels run in the interpreter on small samples.
FASTEST = r"""
import torch
import equitensor as eq
from equitensor.backends.triton import edge_atom, tensor_product
from equitensor.backends.triton.tuning import fastest
cpu, single = torch.device("cpu"), torch.float32
tensor_product.CHUNK, tensor_product._rows = 2, lambda spec, channels: 4
class Times:
    # the given time for the first call, the second, ...; launches each once
    def __init__(self, times):
        self.times, self.calls = times, 0
    def __call__(self, call, quantiles):
        call()
        self.calls += 1
        return [self.times[self.calls - 1]] * 3
spec = eq.TensorProduct("0e+1o", "0e+1o", "0e+1o").spec
slots = (0, 1, 2)
def cases(channels):
    for name in ("to_atoms", "to_weights", "to_basis", "to_scalars", "scaled_to_weights", "scaled_to_basis",
                 "to_scalars_backward"):
        given = (name, (1, 3), channels, single)
        configs = edge_atom.configs_of(*given)
        samples = edge_atom.sample_of(*given, 3, 2), edge_atom.sample_of(*given, 2, 40)
        yield edge_atom.kernel_of(*given, configs[0]), configs, samples
    if channels == 1:
        return
    configs = tensor_product.configs_of(spec, slots, channels, single)
    kernel = tensor_product.contract_kernel(spec, slots, True, single, False)
    yield kernel, configs, (tensor_product.sample_of(spec, slots, True, channels, single),)
    sample = tensor_product.weights_sample_of(spec, channels, single)
    yield tensor_product.contract_weights_kernel(spec, single), configs, (sample,)
for channels in (1, 48, 64):
    for kernel, configs, samples in cases(channels):
        assert len(set(configs)) == len(configs) > 1
        many = len(configs)
        for n, config in ((0, configs[0]), (many - 1, configs[-1])):
            # each sample has another fastest; the product of both times decides
            best = ((n + 1) % many, (n + 2) % many) if len(samples) == 2 else (n,)
            assert many > len(samples)
            times = [[1.0 if k == b else 2.0 if k == n else 9.0 for k in range(many)] for b in best]
            # of the second sample the first tile config is timed last
            bench = Times([*times[0], *times[-1][1:], *times[-1][:1]])
            for _ in range(3):
                assert fastest(kernel, configs, channels, cpu, samples, bench) == config
            assert bench.calls == many * len(samples)
def full(call, quantiles):
    raise torch.OutOfMemoryError("no memory")
assert fastest(kernel, configs, channels, cpu, samples, full) == configs[0]
print("chosen")
"""

# The choice is made while a fake graph is traced, on tensors that are not fake, and remembered on disk.
KEPT = (
    NAMED_GPU
    + r"""
import sys
import torch, triton
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from equitensor.backends.triton import edge_atom
from equitensor.backends.triton.tuning import fastest
given = ("to_atoms", (1, 3), 64, torch.float32)
configs = edge_atom.configs_of(*given)
timed, launched = [], []

class Kernel:
    # takes down launches instead
    def __init__(self, fn):
        self.fn, self.arg_names = fn, fn.arg_names
    def run(self, *tensors, grid, warmup, **rest):
        assert all(type(t) is torch.Tensor for t in tensors)
        launched.append((grid(rest), rest["BLOCK"], rest["ROWS"], rest["num_warps"], rest["STAGES"]))

def bench(call, quantiles):
    timed.append(call)
    call()
    return [9.0 - 0.1 * len(timed)] * 3

def function(x):
    kernel = Kernel(edge_atom.kernel_of(*given, configs[0]))
    samples = edge_atom.sample_of(*given, 3, 2), edge_atom.sample_of(*given, 2, 40)
    found.append(fastest(kernel, configs, 64, torch.device("cpu"), samples, bench))
    return x + 1

found = []
with FakeTensorMode():
    graph = make_fx(function, tracing_mode="fake")(torch.ones(2))
assert [n.op for n in graph.graph.nodes] == ["placeholder", "call_function", "output"], graph.graph
assert found == [configs[-1]]
# of the second sample, whose last tile config is the first
assert launched[-1] == ((2, 1, 1), *configs[0])
print(len(timed), len(launched))
"""
)

# What compilers see of a choice, and when there is none.
SEEN = (
    NAMED_GPU
    + r"""
import torch, triton
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._subclasses import FakeTensorMode
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx
import equitensor as eq
from equitensor.backends.triton import tuning
asked = []
def last(kernel, configs, *rest):
    asked.append((kernel, configs, *rest))
    return configs[-1]
tuning.fastest = last
tp = eq.TensorProduct("0e+1o", "0e+1o", "0e+1o")

def operators(w, y, f, x, weights, centers):
    offsets = eq.row_offsets(centers, f.shape[0])
    return (
        eq.to_atoms(w, y, centers, offsets), eq.to_weights(y, f, centers, offsets),
        eq.to_basis(w, f, centers, offsets), tp(x, x, weights),
        torch.ops.equitensor.contract_weights(x, x, x, str(tp.spec), True),
    )

def seen(edges, atoms):
    # block, rows, warps and stages of each kernel
    asked.clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        shapes = (edges, 2, 64), (edges, 4), (atoms, 4, 64), (atoms, 4, 64), tp.weight_shape(64)
        arguments = [torch.empty(s, device="cuda") for s in shapes]
        arguments.append(torch.empty(edges, dtype=torch.int64, device="cuda"))
        graph = make_fx(dispatch_functionalize(operators), tracing_mode="fake")(*arguments)
    found = []
    for n in graph.graph.nodes:
        if "triton_kernel_wrapper" in str(n.target):
            (config,) = kernel_side_table.get_kernel(n.kwargs["kernel_idx"]).configs
            given = {**n.kwargs["kwargs"], **kernel_side_table.get_constant_args(n.kwargs["constant_args_idx"])}
            stages = given.get("STAGES", 1)
            found.append((given["BLOCK"], given.get("ROWS", 0), config.num_warps, stages))
    assert len(found) == 5
    return found

rule = [(64, 4, 4, 1)] * 3 + [(64, 0, 2, 1)] * 2
assert seen(40, 6) == rule and not asked  # no GPU here
torch.cuda.is_available = lambda: True
torch.cuda.is_current_stream_capturing = lambda: False
chosen = seen(40, 6)
keys = list(asked)
assert len(keys) == 5 and chosen == [tuple(configs[-1]) for _, configs, *_ in keys] and chosen != rule
assert seen(999, 77) == chosen and asked == keys  # neither edges nor atoms are in what is asked
assert seen(40, 1) == chosen and asked == keys
torch.use_deterministic_algorithms(True)
assert seen(40, 6) == rule and not asked
torch.use_deterministic_algorithms(False)
torch.cuda.is_current_stream_capturing = lambda: True
assert seen(40, 6) == rule and not asked
print("seen")
"""
)


def test_a_shape_class_has_few_tile_configs_and_the_default_is_the_first():
    from equitensor.backends.triton.source import candidate_configs, default_config

    for components, channels, rows in ((4, 64, 4), (25, 128, 4), (35, 64, 0), (81, 7, 0), (300, 128, 4)):
        for dtype in (torch.float32, torch.float64):
            found = candidate_configs(components, channels, dtype, rows)
            assert found[0] == default_config(components, channels, dtype, rows)
            assert 1 <= len(set(found)) == len(found) <= 11
    assert candidate_configs(9, 64, torch.float32, 4) == (
        (64, 4, 4, 1), (32, 4, 2, 1), (64, 4, 2, 1), (64, 4, 8, 1), (64, 2, 2, 1), (64, 8, 8, 1),
        (64, 16, 16, 1), (32, 16, 8, 1), (32, 32, 16, 1), (64, 4, 4, 3), (32, 16, 8, 2),
    )  # fmt: skip
    # on sm_80 sixteen warps of 64 channels and 16 edges spill at l_max 3
    assert (64, 16, 16, 1) not in candidate_configs(16, 64, torch.float32, 4)
    assert {(64, 16, 8, 1), (32, 32, 8, 1)} <= {*candidate_configs(16, 64, torch.float32, 4)}
    # two channels per thread would hold 2 · 35 values beside their products, half of that fits
    assert candidate_configs(35, 128, torch.float32, 0) == ((64, 0, 2, 1), (32, 0, 1, 1), (128, 0, 4, 1))
    assert (64, 0, 1, 1) in candidate_configs(17, 128, torch.float32, 0)


def test_a_single_channel_has_an_edge_per_thread():
    from equitensor.backends.triton.source import candidate_configs

    for dtype in (torch.float32, torch.float64):
        expected = (1, 32, 1, 1), (1, 64, 2, 1), (1, 128, 4, 1), (1, 32, 1, 3)
        assert candidate_configs(1, 1, dtype, 4) == expected
    assert candidate_configs(1, 1, torch.float32, 4, warp=64)[0] == (1, 64, 1, 1)
    assert candidate_configs(9, 1, torch.float32, 0) == ((16, 0, 1, 1),)


@pytest.mark.parametrize("warp", [32, 64])
def test_every_thread_has_an_element_and_programs_fit_a_multiprocessor(warp):
    from equitensor.backends.triton.source import candidate_configs

    for components, channels in ((1, 1), (4, 8), (9, 32), (9, 64), (16, 64), (25, 128)):
        for dtype in (torch.float32, torch.float64):
            for c in candidate_configs(components, channels, dtype, 4, warp):
                assert warp * c.warps <= min(1024, c.rows * c.block)


def test_the_threads_of_a_warp_are_those_of_the_gpu(monkeypatch):
    from types import SimpleNamespace

    from equitensor.backends.triton.source import threads_per_warp

    found = []
    for hip, there, size in ((None, False, None), ("7.0", False, None), ("7.0", True, 32), ("7.0", True, 64)):
        with monkeypatch.context() as m:
            m.setattr(torch.version, "hip", hip)
            m.setattr(torch.cuda, "is_available", lambda there=there: there)
            m.setattr(
                torch.cuda, "get_device_properties", lambda n, size=size: SimpleNamespace(warp_size=size)
            )
            found.append(threads_per_warp.__wrapped__())
    assert found == [32, 64, 32, 64]


@pytest.mark.slow
def test_every_tile_config_gives_the_reference_values():
    assert run(VALUES, TRITON_INTERPRET="1").endswith("equal\n")


@pytest.mark.slow
def test_the_fastest_is_chosen_once_per_kernel_and_channels():
    assert run(FASTEST, TRITON_INTERPRET="1").endswith("chosen\n")


def test_times_are_taken_apart_from_a_trace_and_kept_on_disk(tmp_path):
    """The second process times nothing and launches no more than the fastest of each sample."""
    assert run(KEPT, TRITON_CACHE_DIR=str(tmp_path)) == "22 24\n"
    assert run(KEPT, TRITON_CACHE_DIR=str(tmp_path)) == "0 2\n"


def test_compilers_see_the_choice_and_sizes_have_no_say():
    """Without a GPU, in deterministic mode and while a graph is captured they see the default tile config."""
    assert run(SEEN).endswith("seen\n")
