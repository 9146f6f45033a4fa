"""compile: the file it writes, its metadata, and what it refuses to write."""

import dataclasses
import subprocess
import sys
import zipfile

import pytest
import torch

import localgraph
import mlip_export
from mlip_export import _build, _model, inductor, model_file, runtime
from mlip_export._describe import describe
from mlip_export._verify import verify
from mlip_export.graphs import cluster, comparison_graphs


def test_metadata_of_a_file(water_pt2, water_model):
    found = mlip_export.read_metadata(water_pt2)
    assert found.type_names == ("H", "O")
    assert found.cutoff == 3.5 and found.cutoffs == ((2.5, 3.5), (3.5, 3.5))
    assert found.config == water_model.to_config()
    assert found.parameters == sum(p.numel() for p in water_model.parameters())
    assert found.checksum == _model.checksum(water_model)
    assert found.training == {"energy_mae_meV": 1.25}
    assert found.verification["comparisons"] == 42
    assert found.verification["max_energy"] < 1e-10
    assert model_file.Metadata.from_strings(found.to_strings()) == found
    text = describe(found)
    for part in (
        "elements: H O",
        "cutoff: 3.5 Å",
        "energy_mae_meV: 1.25",
        "float64 network",
        "cutoffs of H, Å: H-H 2.5",
    ):
        assert part in text


@pytest.mark.parametrize("atoms, isolated", [(1009, 0), (300, 3), (2, 0), (1, 0), (1, 7)])
def test_equals_the_eager_model(water_pt2, water_model, atoms, isolated):
    potential = mlip_export.load(water_pt2)
    edges = cluster(water_model.cutoffs, atoms, isolated=isolated, seed=11)
    energies, edge_forces = potential(*edges)
    expected = localgraph.energies_and_edge_forces(water_model, *edges)
    torch.testing.assert_close(energies, expected[0], rtol=0, atol=1e-11)
    torch.testing.assert_close(edge_forces, expected[1], rtol=0, atol=1e-11)


def test_a_float32_model_from_its_file_and_in_float64(tmp_path, toy):
    model = toy(("C", "H"), 4.0, dtype="float32")
    source = tmp_path / "model.safetensors"
    localgraph.save_model(source, model, {"epochs": 3})
    found = mlip_export.compile(
        source,
        tmp_path / "a.pt2",
        isa="avx2" if torch.cpu._is_avx2_supported() and inductor.can_target() else "native",
    )
    assert found.dtype == "float32" and found.training == {"epochs": 3}
    assert 0 < found.verification["max_energy"] < 1e-4
    edges = cluster(model.cutoffs, 200, seed=3)
    double = toy(("C", "H"), 4.0, dtype="float64")
    double.load_state_dict(model.state_dict())
    reference = localgraph.energies_and_edge_forces(double, *edges)
    energies, _ = mlip_export.load(tmp_path / "a.pt2")(*edges)
    assert energies.dtype == torch.float64
    torch.testing.assert_close(energies, reference[0], rtol=0, atol=1e-4)


def test_code_that_disagrees_is_not_written(tmp_path, water_model, monkeypatch):
    built = []

    def build(program, path, chosen):
        built.append(chosen.get("max_fusion_size"))
        path.write_bytes(b"")

    def wrong(path, device=None):
        def function(*edges):
            energies, forces = localgraph.energies_and_edge_forces(water_model, *edges)
            return energies + 1e-6, forces

        return function

    monkeypatch.setattr(inductor, "build", build)
    monkeypatch.setattr(_build, "open_function", wrong)
    with pytest.raises(mlip_export.Disagreement, match=r"1009 atoms with 1 thread.*1e-06 eV per atom"):
        mlip_export.compile(water_model, tmp_path / "wrong.pt2")
    assert built == [None, 1]  # tried with fusion, then without
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_reads_its_neighbors_energies_is_refused(toy):
    """Hosts replace neighbors by representatives of their types; a model that is not strictly local would be wrong."""

    class Passing(toy):
        def forward(self, edge_vectors, edge_index, types):
            first = super().forward(edge_vectors, edge_index, types)
            return first + torch.zeros_like(first).index_add(0, edge_index[0], 1e-3 * first[edge_index[1]])

    model = Passing(("H", "O"), 3.5)

    def eager(*edges):
        return localgraph.energies_and_edge_forces(model, *edges)

    with pytest.raises(mlip_export.Disagreement, match="neighbors by type alone"):
        verify(eager, model, comparison_graphs(model.cutoffs, torch.device("cpu")), "float64")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"path": "model.so"}, r"path must be a name ending in \.pt2, got 'model\.so'"),
        ({"path": "/no/such/folder/a.pt2"}, "path must be in an existing folder"),
        ({"device": "tpu"}, "device must be 'cpu' or 'cuda', got 'tpu'"),
        ({"isa": "sse"}, "isa must be one of .*, got 'sse'"),
        ({"dtype": "float16"}, "dtype must be 'float32' or 'float64', got 'float16'"),
        ({"model": 3}, "model must be an EdgeModel or the path of a model file, got int"),
    ],
)
def test_bad_arguments(water_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        mlip_export.compile(**({"model": water_model, "path": "a.pt2"} | arguments))


def test_another_instruction_set_needs_a_torch_that_can(water_model, tmp_path, monkeypatch):
    monkeypatch.setattr(inductor, "can_target", lambda: False)
    with pytest.raises(ValueError, match=r"isa must be 'native' with torch .*, got 'avx2'"):
        mlip_export.compile(water_model, tmp_path / "a.pt2", isa="avx2")


def test_cuda_without_a_device(water_model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        mlip_export.compile(water_model, "a.pt2", device="cuda")


def test_missing_truncated_and_foreign_files(water_pt2, tmp_path):
    with pytest.raises(FileNotFoundError, match="path must be an existing"):
        mlip_export.load(tmp_path / "none.pt2")
    content = water_pt2.read_bytes()
    for name, data in (
        ("half.pt2", content[: len(content) // 2]),
        ("empty.pt2", b""),
        ("text.pt2", b"hello" * 100),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(mlip_export.ExportedModelError, match="truncated or foreign"):
            mlip_export.load(tmp_path / name)
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / "damaged.pt2").write_bytes(bytes(damaged))
    with pytest.raises(mlip_export.ExportedModelError, match="fails its checksum"):
        mlip_export.load(tmp_path / "damaged.pt2")
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("a/b", "c")
    with pytest.raises(mlip_export.ExportedModelError, match="an archive of something else"):
        mlip_export.load(tmp_path / "other.pt2")
    with zipfile.ZipFile(tmp_path / "list.pt2", "w") as archive:
        archive.writestr("a/b_metadata.json", "[1]")
    with pytest.raises(mlip_export.ExportedModelError, match="got a file without its metadata"):
        mlip_export.load(tmp_path / "list.pt2")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format_version": "2"}, "must have format version '1', got '2'"),
        ({"format": "other"}, "must be an exported model, written by mlip-export"),
        ({"cutoffs": "[[1.0"}, "must have complete metadata"),
        ({"torch_version": "1.13.0"}, r"must fit this machine, got code of torch 1\.13\.0 for torch"),
        ({"device": "cuda", "isa": "sm_999"}, "code for (cuda|sm_999)"),
        ({"energy_unit": "hartree"}, "units angstrom and hartree instead of angstrom and eV"),
    ],
)
def test_another_kind_or_machine(water_pt2, changed, change, message):
    path = changed(water_pt2, **change)
    with pytest.raises(mlip_export.ExportedModelError, match=message):
        mlip_export.load(path)


def test_a_narrower_processor_is_named(water_pt2, monkeypatch):
    found = dataclasses.replace(mlip_export.read_metadata(water_pt2), isa="avx512")
    monkeypatch.setattr(inductor, "isa_of_this_machine", lambda: "avx2")
    assert runtime.check_machine(found) == [
        "avx512 instructions on a processor that runs avx2 (compile it again here)"
    ]


def test_hosts_are_reached_by_name_and_imported_on_use():
    script = "import sys, mlip_export; assert 'torch' not in sys.modules and 'ase' not in sys.modules; "
    script += "print(mlip_export.ase.Calculator, mlip_export.lammps.build)"
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'hosts'"):
        mlip_export.hosts  # noqa: B018


def test_importing_and_compiling_leave_the_process_alone(water_pt2):
    before = (torch.get_default_dtype(), torch.get_num_threads(), torch.random.get_rng_state())
    potential = mlip_export.load(water_pt2)
    potential(*cluster(potential.cutoffs, 30))
    assert torch.get_default_dtype() == before[0] and torch.get_num_threads() == before[1]
    assert torch.equal(torch.random.get_rng_state(), before[2])
