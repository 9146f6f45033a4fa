"""The contract: edge forces by one autograd call, models found by name, model files whole or refused."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from localgraph import (
    EdgeModel,
    atomic_write,
    energies_and_edge_forces,
    load_model,
    model_class,
    register,
    save_model,
)

MODULE = """
import torch
from localgraph import segment_sum


class Springs(torch.nn.Module):
    model_name = "springs"

    def __init__(self, type_names, cutoff):
        super().__init__()
        self.type_names, self.cutoff = tuple(type_names), cutoff
        self.stiffness = torch.nn.Parameter(torch.ones(len(type_names), dtype=torch.float64))

    @property
    def cutoffs(self):
        return torch.full((len(self.type_names),) * 2, self.cutoff, dtype=torch.float64)

    @classmethod
    def from_config(cls, config):
        if unknown := set(config) - {"type_names", "cutoff"}:
            raise ValueError(f"unknown {unknown}")
        return cls(**config)

    def to_config(self):
        return {"type_names": list(self.type_names), "cutoff": self.cutoff}

    @classmethod
    def cutoffs_of(cls, config):
        return torch.full((len(config["type_names"]),) * 2, config["cutoff"], dtype=torch.float64)

    def for_inference(self):
        return self

    def shift_energies(self, delta):
        raise NotImplementedError

    def forward(self, edge_vectors, edge_index, types):
        d2 = (edge_vectors * edge_vectors).sum(1)
        e = 0.5 * self.stiffness[types[edge_index[0]]] * (1 - d2 / self.cutoff**2).clamp_min(0) ** 2
        return segment_sum(e, edge_index[0], types.shape[0])
"""


@pytest.fixture
def springs(tmp_path, monkeypatch):
    """A registered model: a module and its entry point, as pip would install them."""
    site = tmp_path / "site"
    info = site / "springs-0.1.dist-info"
    info.mkdir(parents=True)
    (site / "springs_model.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: springs\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[mlip.models]\nsprings = springs_model:Springs\n")
    monkeypatch.syspath_prepend(site)
    yield model_class("springs")
    sys.modules.pop("springs_model", None)


def example():
    edge_index = torch.tensor([[0, 0, 1, 2], [1, 2, 0, 0]])
    r = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return r, edge_index, torch.tensor([0, 1, 1, 0])


def test_edge_forces(springs):
    model = springs(("H", "O"), 5.0)
    assert isinstance(model, EdgeModel)
    r, edge_index, types = example()
    energies, g = energies_and_edge_forces(model, r, edge_index, types)
    assert energies.shape == (4,) and float(energies[3]) == 0.0
    assert not energies.requires_grad and not g.requires_grad and not r.requires_grad
    step = 1e-5
    for e, a in [(0, 0), (3, 2)]:
        moved = torch.zeros_like(r)
        moved[e, a] = step
        up, down = model(r + moved, edge_index, types), model(r - moved, edge_index, types)
        slope = (up - down).sum() / (2 * step)
        assert abs(float(slope.detach() - g[e, a])) < 1e-9
    with torch.no_grad():
        assert torch.equal(energies_and_edge_forces(model, r, edge_index, types)[1], g)


def test_edge_forces_can_be_trained_on(springs):
    model = springs(("H", "O"), 5.0)
    r, edge_index, types = example()
    x = r.clone().requires_grad_()
    energies, g = energies_and_edge_forces(model, 2 * x, edge_index, types, create_graph=True)
    assert energies.requires_grad
    (g * g).sum().backward()
    assert float(model.stiffness.grad.abs().min()) > 0 and float(x.grad.abs().max()) > 0


@pytest.mark.parametrize("atoms", [0, 1, 3])
def test_no_edges(springs, atoms):
    model = springs(("H",), 5.0)
    energies, g = energies_and_edge_forces(
        model,
        torch.zeros(0, 3, dtype=torch.float64),
        torch.zeros(2, 0, dtype=torch.int64),
        torch.zeros(atoms).long(),
    )
    assert (energies.shape, g.shape) == ((atoms,), (0, 3))


def test_unknown_names_are_refused(springs):
    with pytest.raises(ValueError, match=r"registered models .*'springs'.*got 'spring'"):
        model_class("spring")


def test_files_hold_the_model(springs, tmp_path):
    model = springs(("H", "O"), 5.0)
    with torch.no_grad():
        model.stiffness += torch.rand(2, dtype=torch.float64)
    path = tmp_path / "model.safetensors"
    save_model(path, model, {"epoch": 3, "units": {"energy": "eV"}})
    loaded, metadata = load_model(path)
    assert type(loaded) is springs and loaded.to_config() == model.to_config()
    assert torch.equal(loaded.stiffness, model.stiffness)
    assert metadata == {"epoch": 3, "units": {"energy": "eV"}}
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["model.safetensors"]
    save_model(path, model)
    assert load_model(path)[1] == {}


def test_weights_of_another_dtype_and_a_short_header_are_refused(springs, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, springs(("H",), 5.0).float())
    with pytest.raises(ValueError, match=r"stiffness in torch\.float64.*got torch\.float32"):
        load_model(path)
    save_file({"x": torch.zeros(1)}, path, {"format": "mlip-model", "format_version": "1", "config": "{}"})
    with pytest.raises(ValueError, match=r"path must be a model file with \['model', 'metadata'\]"):
        load_model(path)


def test_a_failed_write_leaves_the_old_file(springs, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(path, springs(("H",), 5.0), {"which": "first"})

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space left"):
        save_model(path, springs(("H",), 6.0))
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["model.safetensors"]


def test_other_files_are_refused(springs, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="path must be an existing model file"):
        load_model(path)
    save_model(path, springs(("H",), 5.0))
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(ValueError, match="path must be a complete model file"):
        load_model(path)
    save_file({"x": torch.zeros(1)}, path, {"format": "other"})
    with pytest.raises(
        ValueError,
        match=r"path must be a model file of format 'mlip-model', format_version '1', got .* format 'other'",
    ):
        load_model(path)
    header = {
        "format": "mlip-model",
        "format_version": "1",
        "model": "nobody",
        "config": json.dumps({}),
        "metadata": "{}",
    }
    save_file({"x": torch.zeros(1)}, path, header)
    with pytest.raises(ValueError, match="got 'nobody'"):
        load_model(path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before"
    with atomic_write(path) as file:
        file.write(b"after")
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


class Other(torch.nn.Module):
    """A class that lacks most of the protocol."""

    model_name = "other"


def test_registered_classes_are_found(springs):
    class Local(springs):
        model_name = "local"

    assert register(Local) is Local and model_class("local") is Local
    again = type("Local", (springs,), {"model_name": "local", "__qualname__": Local.__qualname__})
    assert register(again) is again and model_class("local") is again  # a cell that runs twice
    with pytest.raises(ValueError, match="cls must have a model_name of its own, got 'local'"):
        register(type("Clash", (springs,), {"model_name": "local"}))
    with pytest.raises(ValueError, match="cls must have a model_name of its own, got 'springs'"):
        register(type("Clash", (springs,), {}))
    with pytest.raises(TypeError, match=r"without \['from_config', 'to_config', .*'shift_energies'\]"):
        register(Other)


IMPORTER = """
from springs_model import Springs

def matches(path):
    return path.name.endswith(".springs")

def load(path):
    if path.read_text() != "springs":
        raise ValueError(f"path must be a file of springs, got {str(path)!r}")
    return Springs(("H",), 4.0)
"""


def test_foreign_files_find_their_importer(springs, tmp_path):
    site = tmp_path / "site"
    (site / "springs_files.py").write_text(IMPORTER)
    info = site / "springs-0.1.dist-info" / "entry_points.txt"
    info.write_text(info.read_text() + "\n[mlip.importers]\nsprings = springs_files\n")
    path = tmp_path / "model.springs"
    path.write_text("springs")
    model, metadata = load_model(path)
    assert type(model) is springs and metadata == {"source": "model.springs", "importer": "springs"}
    path.write_text("something else")
    with pytest.raises(ValueError, match="path must be a file of springs"):
        load_model(path)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "missing.springs")
    other = tmp_path / "model.unknown"
    other.write_text("?")
    with pytest.raises(ValueError, match="path must be a complete model file"):
        load_model(other)


def test_bare_names_find_shipped_examples_after_files(springs, tmp_path, monkeypatch):
    site = tmp_path / "site"
    shipped, local = springs(("H",), 4.0), springs(("H", "O"), 3.0)
    save_model(tmp_path / "shipped.safetensors", shipped, {"from": "package"})
    (site / "springs_example.py").write_text(f"def path(): return {str(tmp_path / 'shipped.safetensors')!r}")
    info = site / "springs-0.1.dist-info" / "entry_points.txt"
    info.write_text(info.read_text() + "\n[mlip.examples]\nspring = springs_example:path\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert load_model("spring")[1] == {"from": "package"}
    for name in ("sprung", "spring.safetensors", "./spring", "folder/spring"):
        with pytest.raises(FileNotFoundError, match="path must be an existing"):
            load_model(name)
    save_model("spring", local, {"from": "file"})
    assert load_model("spring")[1] == {"from": "file"}
