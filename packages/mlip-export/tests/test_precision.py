"""Precision of products: set and restored around each call, compared with float64, refused where it loses too much."""

import dataclasses
import threading

import numpy as np
import pytest
import torch

import localgraph
import mlip_export
from mlip_export import _build, _compile, inductor
from mlip_export._precision import _get, can_bf16, product_precision, setting
from mlip_export._trace import trace
from mlip_export._verify import ERRORS, error, verify
from mlip_export.ase import Calculator
from mlip_export.graphs import cluster, comparison_graphs, reference_graphs
from mlip_export.products import candidates
from mlip_export.runtime import EdgePotential

NEW = hasattr(torch.backends.cuda.matmul, "fp32_precision")
bf16 = pytest.mark.skipif(not (can_bf16() and NEW), reason="needs AVX-512 BF16 or AMX, and torch 2.9")
CPU = torch.device("cpu")


@pytest.fixture
def potential(water_pt2):
    return mlip_export.load(water_pt2)


@pytest.fixture(autouse=True)
def _full_precision_again():
    """Leave later tests what they had; the name is of no parameter, which would take the fixture's place."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("device, precision", [("cpu", "float32"), ("cpu", "bf16"), ("cuda", "tf32")])
@pytest.mark.parametrize("process", ["highest", "high", "medium"])
def test_set_and_restored(process, device, precision):
    torch.set_float32_matmul_precision(process)
    before = _get("cpu"), _get("cuda")
    with pytest.raises(KeyError), product_precision(device, precision):
        expected = {"float32": "ieee", "bf16": "bf16", "tf32": "tf32"} if NEW else dict(float32="highest")
        assert _get(device).replace("none", "ieee") == expected.get(precision, _get(device))
        raise KeyError  # an error restores it too
    assert (_get("cpu"), _get("cuda")) == before
    assert torch.get_float32_matmul_precision() == process


@pytest.mark.skipif(not NEW, reason="needs torch 2.9")
def test_what_was_inherited_is_inherited_again():
    try:
        torch.backends.fp32_precision = "tf32"
        with product_precision("cuda", "float32"):
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        torch.backends.fp32_precision = "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    finally:
        torch.backends.fp32_precision = "none"


def test_threads_of_other_precisions_wait():
    seen, errors = [], []

    def work(precision):
        for _ in range(200):
            with product_precision("cpu", precision):
                now = _get("cpu").replace("none", "ieee")
                seen.append((precision, now))

    threads = [threading.Thread(target=work, args=(p,)) for p in ("float32", "bf16", "float32")]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    assert len(seen) == 600 and len(set(seen)) == 2 and not errors


@pytest.mark.parametrize("process", ["highest", "high", "medium"])
def test_a_call_has_the_precision_of_its_package(potential, process):
    """On a CPU that is full precision, in which a program writes out bf16; on a GPU what the metadata says."""
    assert [setting("cuda", p) for p in ("float32", "tf32")] == ["float32", "tf32"]
    seen = []

    def function(*edges):
        seen.append(_get("cpu").replace("none", "ieee"))
        return potential._function(*edges)

    torch.set_float32_matmul_precision(process)
    for precision in ("float32", "bf16"):
        metadata = dataclasses.replace(potential.metadata, precision=precision)
        EdgePotential(function, metadata, CPU)(*cluster(potential.cutoffs, 20))
    assert seen == (["ieee"] * 2 if NEW else ["highest"] * 2)
    assert torch.get_float32_matmul_precision() == process


@pytest.mark.parametrize(
    "dtype, precision, message",
    [
        ("float32", "tf32", r"precision must be one of \('float32', 'bf16'\) on cpu, got 'tf32'"),
        ("float32", "half", r"precision must be one of .* got 'half'"),
        pytest.param(
            "float64", "bf16", "'float32' for a model without float32 weights, got 'bf16'", marks=bf16
        ),
    ],
)
def test_bad_precisions(water_model, tmp_path, dtype, precision, message):
    with pytest.raises(ValueError, match=message):
        mlip_export.compile(water_model, tmp_path / "a.pt2", dtype=dtype, precision=precision)


def test_a_processor_without_bf16(water_model, tmp_path, monkeypatch):
    monkeypatch.setattr(_compile, "can_bf16", lambda: False)
    with pytest.raises(ValueError, match="without AVX-512 BF16 or AMX, got 'bf16'"):
        mlip_export.compile(water_model, tmp_path / "a.pt2", dtype="float32", precision="bf16")


@pytest.fixture
def uncompiled(monkeypatch):
    """A function: let what is compiled be a function of the model, as a same-device kernel of both is."""

    def give(model):
        def eager(path, device=None):
            return lambda *edges: localgraph.energies_and_edge_forces(model, *edges)

        monkeypatch.setattr(inductor, "build", lambda program, path, chosen: path.write_bytes(b""))
        for module in (_build, candidates):
            monkeypatch.setattr(module, "open_function", eager)

    return give


def test_kernels_that_are_wrong_in_eager_too_are_seen(toy, tmp_path, uncompiled):
    """Compiled and eager agree; float64 by the other implementation does not."""

    class Wrong(toy):
        def forward(self, edge_vectors, edge_index, types):
            found = super().forward(edge_vectors, edge_index, types)
            return found * (1.001 if self.dtype == "float32" else 1.0)

    model = Wrong(("H", "O"), 3.5, dtype="float32")
    uncompiled(model)
    with pytest.raises(
        mlip_export.Disagreement, match="float32 on cpu and float64 on the CPU differ on 1009"
    ):
        mlip_export.compile(model, tmp_path / "wrong.pt2")
    assert list(tmp_path.iterdir()) == []


def test_the_energies_of_isolated_atoms_are_no_scale_of_errors(toy):
    """An error of 0.2 eV is seen beside atomic energies of 2000 eV."""
    model = toy(("H", "O"), 3.5, shifts=[-13.0, -2000.0])
    graphs = {"125 atoms": comparison_graphs(model.cutoffs, CPU)["125 atoms"]}

    def candidate(*edges):
        energies, forces = localgraph.energies_and_edge_forces(model, *edges)
        return energies + 0.2, forces

    for name in ("float32", "tf32", "bf16"):
        with pytest.raises(mlip_export.Disagreement, match=r"differ on 125 atoms: 0\.2 eV per atom"):
            error(candidate, model, graphs, CPU, name)
    with pytest.raises(
        mlip_export.Disagreement, match=r"differ on 125 atoms with 1 thread.*: 0\.2 eV per atom"
    ):
        verify(candidate, model, graphs, "float32")


def test_kernels_that_are_wrong_in_their_second_wave_are_seen(water_model):
    graphs = reference_graphs(water_model.cutoffs, "cuda")
    assert graphs.keys() - comparison_graphs(water_model.cutoffs, CPU).keys() == {"20 clusters of 1009 atoms"}

    def candidate(edge_vectors, edge_index, types):
        energies, forces = localgraph.energies_and_edge_forces(water_model, edge_vectors, edge_index, types)
        energies[16_896:] = 0.0  # 132 SMs × 128 atoms
        return energies, forces

    small = {name: graphs[name] for name in ("125 atoms", "2 atoms")}
    found = error(candidate, water_model, small, CPU, "float64")
    assert found.max_force == 0.0 and found.rms_of_forces > 0.01
    with pytest.raises(mlip_export.Disagreement, match="on 20 clusters of 1009 atoms"):
        error(candidate, water_model, graphs, CPU, "float64")


@pytest.fixture
def products(toy, compiled):
    """Packages of one float32 model by precision."""
    model = toy(("H", "O"), 3.5, width=64, dtype="float32")
    return {p: compiled(f"products_{p}.pt2", model, precision=p) for p in ("float32", "bf16")}


@bf16
@pytest.mark.slow
def test_a_package_of_bf16_products(products, make_water, lammps):
    recorded = {p: mlip_export.read_metadata(path) for p, path in products.items()}
    rms = {p: m.verification["float64"]["rms_force"] for p, m in recorded.items()}
    size = recorded["bf16"].verification["float64"]["rms_of_forces"]
    assert {p: m.precision for p, m in recorded.items()} == {p: p for p in products}
    assert rms["float32"] < 1e-6 * size < 1e-4 * size < rms["bf16"] < 3e-2 * size

    atoms = make_water(3)
    forces = {p: Calculator(path).get_forces(atoms) for p, path in products.items()}
    lost = np.abs(forces["bf16"] - forces["float32"]).max() / np.abs(forces["float32"]).max()
    assert 1e-4 < lost < 3e-2
    torch.set_float32_matmul_precision("medium")  # of the process, which is not that of the package
    bare = mlip_export.load(products["float32"])
    edges = cluster(bare.cutoffs, 200)
    assert torch.isfinite(bare(*edges)[1]).all()
    assert np.array_equal(Calculator(products["float32"]).get_forces(atoms), forces["float32"])

    text = """
units metal
read_data data
pair_style allegro
pair_coeff * * {model} H O
run 0
write_dump all custom dump id fx fy fz modify format float %22.16g
"""
    size = np.abs(forces["float32"]).max()
    # chunks sum in other orders, which bf16 rounds to other numbers
    limits = {"float32": 1e-6 * size, "bf16": 1e-2 * size}
    for precision, path in products.items():
        out = lammps(text.format(model=path), atoms)
        found = np.stack([out.dump[name] for name in ("fx", "fy", "fz")], 1)
        np.testing.assert_allclose(found, forces[precision], rtol=0, atol=limits[precision])
        assert ("with bf16 products" in out.text) == (precision == "bf16")


def test_the_rounded_products_of_a_program(toy):
    model = toy(("H", "O"), 3.5, width=64, dtype="float32")
    for p in model.parameters():
        p.requires_grad_(False)
    example = cluster(model.cutoffs, 101)
    found = {bf16: trace(model, example, bf16=bf16) for bf16 in (False, True)}

    def products(module):
        nodes = [n for n in module.graph.nodes if n.target is torch.ops.aten.mm.default]
        return [n.meta["val"].dtype for n in nodes]

    exact, rounded = products(found[False]), products(found[True])
    assert set(exact) == {torch.float32} and len(exact) == len(rounded)
    one_column = 2  # the last layer, and its transpose
    assert rounded.count(torch.float32) == one_column and set(rounded) == {torch.float32, torch.bfloat16}


@pytest.mark.parametrize("allowed", [True, False])
def test_a_precision_that_loses_too_much_is_refused(toy, monkeypatch, allowed):
    model = toy(("H", "O"), 3.5, width=64, dtype="float32")
    for p in model.parameters():
        p.requires_grad_(False)
    rounded = trace(model, cluster(model.cutoffs, 101), bf16=True).module()
    reference = toy(("H", "O"), 3.5, width=64)
    graphs = comparison_graphs(model.cutoffs, CPU)
    graphs = {name: graphs[name] for name in ("125 atoms", "2 atoms")}
    if allowed:
        found = error(rounded, reference, graphs, CPU, "bf16")
        assert 1e-4 < found.rms_force / found.rms_of_forces < 0.03
    else:
        monkeypatch.setitem(ERRORS, "bf16", ERRORS["float32"])
        with pytest.raises(mlip_export.Disagreement, match="bf16 on cpu and float64 on the CPU differ on"):
            error(rounded, reference, graphs, CPU, "bf16")
