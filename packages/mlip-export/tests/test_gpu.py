"""Packages compiled for a GPU, against float64 on the CPU.

``MLIP_EXPORT_GPU_TESTS_ON=cpu`` runs what needs no GPU on the CPU, to check the tests themselves.
"""

import os
import re
import subprocess
import sys
from functools import partial

import ase.build
import numpy as np
import pytest
import torch

import localgraph
import mlip_export
from mlip_export._verify import by_representatives
from mlip_export.ase import Calculator
from mlip_export.captured import Captured
from mlip_export.chunks import evaluate
from mlip_export.graphs import cluster
from mlip_export.loaded import shared_function
from mlip_export.recording import Repeated
from mlip_export.runtime import EdgePotential

DEVICE = os.environ.get("MLIP_EXPORT_GPU_TESTS_ON", "cuda")
HERE = DEVICE == "cpu" or torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HERE, reason="no CUDA device")]
on_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="of CUDA alone")


@pytest.fixture(scope="module")
def models():
    """The same small Allegro in float32 and float64."""
    allegro = pytest.importorskip("allegro_model")
    options = dict(type_names=["H", "O"], cutoff=4.0, latent_width=32, avg_num_neighbors=30.0)
    single = allegro.Allegro(allegro.AllegroConfig(**options, dtype="float32"))
    double = allegro.Allegro(allegro.AllegroConfig(**options, dtype="float64"))
    double.load_state_dict(single.state_dict())
    return single, double


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    """The path of a package of the float32 model."""
    path = tmp_path_factory.mktemp("gpu") / "model.pt2"
    mlip_export.compile(models[0], path, device=DEVICE)
    return path


@pytest.fixture(scope="module")
def reference(models):
    """Energies and edge forces in float64 on the CPU."""
    return partial(localgraph.energies_and_edge_forces, models[1])


def placed(inputs):
    return [t.to(DEVICE) for t in inputs]


def assert_near(found, expected, relative=1e-4):
    for a, b in zip(found, expected, strict=True):
        scale = float(b.abs().max()) if b.numel() else 0.0
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=relative * (scale + 1e-3))


@pytest.mark.parametrize("atoms, isolated", [(300, 3), (2, 0), (1, 0)])
def test_energies_and_forces(exported, reference, models, atoms, isolated):
    inputs = cluster(models[1].cutoffs, atoms, isolated=isolated, seed=3)
    assert_near(mlip_export.load(exported)(*placed(inputs)), reference(*inputs))


def test_metadata(exported):
    found = mlip_export.read_metadata(exported)
    assert found.device == DEVICE and found.precision == "float32"
    assert 0 < found.bytes_per_edge < 10**6 and found.max_edges > 10**6
    assert found.verification["float64"]["max_force"] < 1e-3
    if DEVICE == "cuda":
        assert found.max_edges * 32 < 2**31


def test_chunks_of_odd_edges(exported, models, reference):
    inputs = cluster(models[1].cutoffs, 200, seed=4)
    potential = mlip_export.load(exported)
    assert_near(evaluate(potential, *placed(inputs), 2, 101, potential.limits), reference(*inputs))


def test_ase(exported, models):
    atoms = ase.build.molecule("H2O")
    atoms.set_cell(np.eye(3) * 3.2)
    atoms.pbc = True
    atoms = atoms.repeat(3)
    atoms.calc = Calculator(exported)
    forces = atoms.get_forces()
    potential = mlip_export.load(exported)
    types = potential.types_of(atoms.get_chemical_symbols())
    x, cell = torch.from_numpy(atoms.positions.copy()), torch.from_numpy(atoms.cell.array.copy())
    graph = localgraph.neighbors(x, potential.cutoffs, cell=cell, pbc=True, types=types)
    r = localgraph.edge_vectors(x, graph, cell)
    _, g = localgraph.energies_and_edge_forces(models[1], r, graph.edge_index, types)
    expected = localgraph.forces(g, graph.edge_index, len(atoms)).numpy()
    np.testing.assert_allclose(forces, expected, rtol=0, atol=1e-4 * (1 + np.abs(expected).max()))


@on_cuda
def test_the_process_does_not_choose_the_precision(exported, models):
    inputs = placed(cluster(models[1].cutoffs, 300, seed=3))
    potential = mlip_export.load(exported)
    expected = potential(*inputs)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found = potential(*inputs)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@on_cuda
@pytest.mark.parametrize("precision, least, most", [("float32", 0.0, 1e-4), ("tf32", 1e-6, 1e-2)])
def test_chained_products(models, reference, tmp_path, precision, least, most):
    path = tmp_path / "chained.pt2"
    found = mlip_export.compile(models[0], path, device="cuda", precision=precision, chained="yes")
    assert found.products["chosen"] == "chained" and found.products["kernels"]["forward"] >= 2
    error = found.verification["float64"]
    assert least < error["rms_force"] / error["rms_of_forces"] < most
    for atoms, isolated in ((300, 3), (2, 0), (1, 0)):
        inputs = cluster(models[1].cutoffs, atoms, isolated=isolated, seed=3)
        assert_near(mlip_export.load(path)(*placed(inputs)), reference(*inputs), 10 * most)


@on_cuda
def test_the_faster_products_are_kept(models, tmp_path):
    found = mlip_export.compile(models[0], tmp_path / "a.pt2", device="cuda", chained="measured").products
    assert found["chosen"] == min(found["milliseconds"], key=found["milliseconds"].get)


@on_cuda
def test_tf32(models, tmp_path):
    found = mlip_export.compile(models[0], tmp_path / "tf32.pt2", device="cuda", precision="tf32")
    error = found.verification["float64"]
    assert 1e-6 < error["rms_force"] / error["rms_of_forces"] < 1e-2


@on_cuda
def test_fused_layers(models, tmp_path, reference):
    path = tmp_path / "fused.pt2"
    found = mlip_export.compile(models[0], path, device="cuda", precision="tf32", fused=True)
    error = found.verification["float64"]
    assert found.config["fused_layers"] and error["rms_force"] / error["rms_of_forces"] < 1e-2
    inputs = cluster(models[1].cutoffs, 300, isolated=3, seed=3)
    assert_near(mlip_export.load(path)(*placed(inputs)), reference(*inputs), relative=2e-2)


@on_cuda
def test_two_streams(exported, models, reference):
    inputs = [cluster(models[1].cutoffs, 300, seed=k) for k in (1, 2)]
    potential, found = mlip_export.load(exported), []
    for given in inputs:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            found.append(potential(*placed(given)))
    torch.cuda.synchronize()
    for results, given in zip(found, inputs, strict=True):
        assert_near(results, reference(*given))


@pytest.fixture
def replayed(exported):
    """The package as a CUDA graph; what stands for one on a CPU."""
    if DEVICE == "cuda":
        return mlip_export.load(exported, cuda_graph=True)
    plain = mlip_export.load(exported)
    function = shared_function(exported, plain.device, single_threaded=True)
    return EdgePotential(
        Captured(function, plain.metadata, plain.device, Repeated), plain.metadata, plain.device
    )


def test_cuda_graph(replayed, models, reference):
    """Sizes below and above the capacity, no edges, and none but padding left of the graph before."""
    for atoms, isolated, recordings in (
        (200, 3, 1),
        (195, 0, 1),
        (2, 0, 1),
        (1, 4, 1),
        (199, 1, 1),
        (300, 0, 2),
        (299, 2, 2),
    ):
        inputs = cluster(models[1].cutoffs, atoms, isolated=isolated, seed=atoms)
        assert_near(replayed(*placed(inputs)), reference(*inputs))
        assert replayed._function.recordings == recordings


def test_cuda_graph_along_a_path(exported, replayed, models):
    """Many replays, close to calls without a graph; the first results stay what they were."""
    plain, inputs = mlip_export.load(exported), cluster(models[1].cutoffs, 120, seed=6)
    first = replayed(*placed(inputs))
    kept = [t.clone() for t in first]
    generator = torch.Generator().manual_seed(0)
    for step in range(20):
        moved = inputs.edge_vectors * (
            1 + 0.02 * torch.rand(len(inputs.edge_vectors), 1, generator=generator)
        )
        few = placed(
            (moved[: len(moved) - step], inputs.edge_index[:, : len(moved) - step].contiguous(), inputs.types)
        )
        assert_near(replayed(*few), [t.cpu() for t in plain(*few)], relative=2e-5)
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


@on_cuda
def test_cuda_graph_does_not_wait_or_allocate(replayed, models):
    """A replay launches one graph beside copies, and takes no memory but that of its results."""
    inputs = placed(cluster(models[1].cutoffs, 200, seed=4))
    function = replayed._function
    for _ in range(3):
        function(*inputs)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    ) as p:
        results = function(*inputs)
        torch.cuda.synchronize()
    calls = [e.name for e in p.events()]
    assert sum("GraphLaunch" in name for name in calls) == 1
    assert sum("LaunchKernel" in name for name in calls) <= 4
    assert torch.cuda.memory_allocated() - before <= sum(t.nbytes + 512 for t in results)


@on_cuda
def test_cuda_graph_on_two_streams(replayed, models, reference):
    graphs = [cluster(models[1].cutoffs, 200, seed=k) for k in (1, 2)]
    streams, found = [torch.cuda.Stream() for _ in graphs], []
    moved = [placed(inputs) for inputs in graphs]
    replayed(*moved[0])
    torch.cuda.synchronize()
    for turn in range(20):
        with torch.cuda.stream(streams[turn % 2]):
            found.append(replayed._function(*moved[turn % 2]))
    torch.cuda.synchronize()
    for turn, results in enumerate(found):
        assert_near(results, reference(*graphs[turn % 2]))


@on_cuda
def test_cuda_graph_in_ase(exported):
    atoms = ase.build.molecule("H2O")
    atoms.set_cell(np.eye(3) * 3.2)
    atoms.pbc = True
    atoms = atoms.repeat(3)
    found = []
    for cuda_graph in (False, True):
        atoms.calc = Calculator(exported, cuda_graph=cuda_graph)
        found.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)


@on_cuda
def test_near_the_most_edges_of_one_call(exported, models):
    """0.9 of what 32-bit indices hold, where memory allows: the last center is that of a small graph."""
    potential = mlip_export.load(exported)
    m = potential.metadata
    edges = int(0.9 * m.max_edges)
    if edges * (m.bytes_per_edge + 100) > 0.4 * torch.cuda.mem_get_info()[0]:  # others may use it too
        pytest.skip("more than the memory of this GPU")
    small = by_representatives(cluster(models[1].cutoffs, 300, seed=3), 2)
    atoms = len(small.types) - 2
    copies = edges // len(small.edge_vectors)
    vectors, types = small.edge_vectors.repeat(copies, 1), small.types[:atoms].repeat(copies)
    first = torch.arange(copies).repeat_interleave(len(small.edge_vectors)) * atoms
    center = small.edge_index[0].repeat(copies) + first
    neighbor = small.edge_index[1].repeat(copies) - atoms + copies * atoms
    types = torch.cat([types, torch.arange(2)])
    if len(types) > m.max_atoms:
        pytest.skip("more atoms than the indices hold")
    energies, forces = potential(*placed((vectors, torch.stack([center, neighbor]), types)))
    once = potential(*placed(small))
    torch.testing.assert_close(energies[:-2].view(copies, -1)[-1], once[0][:-2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(forces[-len(once[1]) :], once[1], rtol=1e-4, atol=1e-4)


@on_cuda
def test_out_of_memory(exported, models, reference):
    """Half of a call that does not fit is evaluated, and half of that."""
    inputs = cluster(models[1].cutoffs, 1000, seed=5)
    given, potential = placed(inputs), mlip_export.load(exported)
    potential(*placed(cluster(models[1].cutoffs, 30)))  # loads weights, and makes workspaces of products
    potential.limits._asked = True  # take what is free for more than it is
    edges = len(inputs.edge_vectors)
    need = edges * potential.metadata.bytes_per_edge
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()  # of this process: what others hold does not count
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((held + 0.4 * need) / total)
    try:
        found = evaluate(potential, *given, 2, None, potential.limits)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert potential.limits.edges <= edges // 2
    assert_near(found, reference(*inputs))


CAPTURE = """
import sys
import torch
import mlip_export
from mlip_export.captured import Captured
from mlip_export.graphs import cluster
from mlip_export.loaded import shared_function

device = torch.device("cuda")
function = shared_function(sys.argv[1], device, single_threaded=True)

def reads(*given):
    energies, edge_forces = function(*given)
    return energies * float(energies.sum() != 0), edge_forces

metadata, before = mlip_export.read_metadata(sys.argv[1]), torch.cuda.current_stream()
cutoffs = mlip_export.load(sys.argv[1]).cutoffs.cpu()
try:
    Captured(reads, metadata, device)(*(t.to(device) for t in cluster(cutoffs, 30)))
except mlip_export.CaptureError as error:
    print("named:", error, torch.cuda.current_stream() == before, flush=True)
"""


@on_cuda
def test_what_cannot_be_captured_is_named(exported):
    """In a process of its own: a capture that fails leaves torch's allocator as if it went on."""
    command = [sys.executable, "-W", "ignore", "-c", CAPTURE, str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert re.search(r"named: .*captured: .*captur.* True", done.stdout, re.DOTALL), done.stdout + done.stderr
