"""The systems, models and floors that benchmarks and counters share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from benchmarks.common import DATA
from torch import Tensor

import localgraph

CUTOFF = 6.0
ELEMENTS = ("H", "C", "N", "O", "S")
PRESETS = ("small", "medium", "large")


class System(NamedTuple):
    """A structure with its graph at 6 Å.

    Attributes
    ----------
    symbols : list of str
        N element symbols.
    positions, cell : Tensor, (N, 3) and (3, 3) float64
        Å.
    pbc : tuple of bool
        Periodic directions.
    graph : localgraph.Graph
        Sorted by center.
    vectors : Tensor, (E, 3) float64
        Å.
    types : Tensor, (N,) int64
        Indices into ``ELEMENTS`` or the elements asked for.
    """

    symbols: list[str]
    positions: Tensor
    cell: Tensor
    pbc: tuple[bool, ...]
    graph: localgraph.Graph
    vectors: Tensor
    types: Tensor

    @property
    def atoms(self) -> int:
        """N."""
        return self.positions.shape[0]

    @property
    def edges(self) -> int:
        """E."""
        return self.graph.num_edges

    def to_ase(self) -> Any:
        """Return the structure as ``ase.Atoms``."""
        import ase

        return ase.Atoms(self.symbols, self.positions.numpy(), cell=self.cell.numpy(), pbc=self.pbc)


def system_of(
    symbols: Sequence[str],
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: Sequence[bool],
    elements: Sequence[str] = ELEMENTS,
) -> System:
    """Return a structure with its graph."""
    x, box = torch.tensor(positions), torch.tensor(cell)
    periodic = tuple(map(bool, pbc))
    graph = localgraph.neighbors(x, CUTOFF, box, periodic)
    types = torch.tensor([list(elements).index(s) for s in symbols])
    return System(list(symbols), x, box, periodic, graph, localgraph.edge_vectors(x, graph, box), types)


def water(molecules_per_edge: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and cell of water at 1 g/cm³: randomly turned molecules on a jittered grid; O, H, H each."""
    rng = np.random.default_rng(seed)
    number = molecules_per_edge**3
    spacing = (18.01528 / 0.602214076) ** (1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(molecules_per_edge)] * 3, indexing="ij"), -1).reshape(-1, 3)
    centers = (rng.permutation(grid) + 0.1 * rng.normal(size=(number, 3))) * spacing
    q, _ = np.linalg.qr(rng.normal(size=(number, 3, 3)))
    half = np.radians(104.52 / 2)
    sine, cosine = np.sin(half), np.cos(half)
    molecule = 0.9572 * np.array([[0, 0, 0], [sine, cosine, 0], [-sine, cosine, 0]])
    positions = centers[:, None] + molecule @ q
    return positions.reshape(-1, 3), np.eye(3) * spacing * molecules_per_edge


@cache
def box(molecules_per_edge: int) -> System:
    """Return ``molecules_per_edge``³ molecules of water: 2 gives 24 atoms, 3 gives 81, 4 gives 192, 7 gives 1029."""
    return system_of(["O", "H", "H"] * molecules_per_edge**3, *water(molecules_per_edge), [True] * 3)


def read(name: str | Path, data: Path = DATA, elements: Sequence[str] = ELEMENTS) -> System:
    """Return a structure of a file, or of ``data/systems`` by its name; a molecule without a cell gets a box."""
    import ase.io

    path = Path(name) if Path(name).suffix == ".xyz" else data / "systems" / f"{name}.xyz"
    atoms = ase.io.read(path)
    if not atoms.cell.rank:
        atoms.center(vacuum=10.0)
    return system_of(atoms.get_chemical_symbols(), atoms.positions, atoms.cell.array, atoms.pbc, elements)


def config(preset: str, elements: Sequence[str] = ELEMENTS, **changes: Any) -> Any:
    """Return the configuration of a preset, with the neighbor number of water at 6 Å."""
    from allegro_model import presets

    return getattr(presets, f"spice_{preset}")(elements, **{"avg_num_neighbors": 86.0, **changes})


def model(preset: str, **changes: Any) -> Any:
    """Return an Allegro of a preset with fixed random weights."""
    from allegro_model import Allegro

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Allegro(config(preset, **changes))


def products(settings: dict[str, Any]) -> list[tuple[int, int]]:
    """Return (in, out) of every matrix product per edge of the folded model: what the floor is made of."""
    s, u, rows = settings["num_scalar_features"], settings["num_tensor_features"], settings["l_max"] + 1
    embed, width, depth = settings["scalar_embed_width"], settings["latent_width"], settings["latent_depth"]
    dims = [(settings["num_bessels"], settings["embed_dim"]), (settings["embed_dim"], embed)]
    dims += [(embed, embed)] * (settings["scalar_embed_depth"] - 1) + [(embed, u * rows)]
    for layer in range(settings["num_layers"]):
        dims += [(s * (layer + 1) + u, width)] + [(width, width)] * (depth - 1)
        if layer + 1 < settings["num_layers"]:
            dims.append((width, s))
    return dims


def tensors_of(batch: Any) -> dict[str, Tensor]:
    """Return the tensors of a training batch by name and its edge index, as timed training steps take them."""
    return {**batch._asdict(), "edge_index": batch.edge_index}


def bare_products(preset: str, edges: int, times: int = 1) -> Callable[[], None]:
    """Return a call of every matrix product per edge, forward and transposed, ``times`` over: a floor.

    It is made of torch alone, so it does not change with this repository: ratios are taken to it.
    """
    pairs = products(model(preset).to_config())
    sizes = [(a, b) for i, o in pairs for a, b in ((i, o), (o, i))] * times
    operands = [(torch.randn(edges, a), torch.randn(a, b)) for a, b in sizes]

    def call() -> None:
        for x, w in operands:
            torch.mm(x, w)

    return call


def reference_settings(settings: Any, seed: int = 1) -> dict[str, Any]:
    """Return the arguments of nequip-allegro's AllegroModel that build the model of one of our configurations."""
    names = list(settings.type_names)
    per_type = {k: settings.per_type(k) for k in ("energy_scales", "energy_shifts")}
    per_type = {k: v * len(names) if len(v) == 1 else v for k, v in per_type.items()}
    return dict(
        seed=seed,
        model_dtype=settings.dtype,
        r_max=settings.cutoff,
        type_names=names,
        l_max=settings.l_max,
        parity=settings.parity,
        radial_chemical_embed={
            "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
            "num_bessels": settings.num_bessels,
            "polynomial_cutoff_p": settings.polynomial_cutoff_p,
        },
        radial_chemical_embed_dim=settings.embed_dim,
        scalar_embed_mlp_hidden_layers_depth=settings.scalar_embed_depth,
        scalar_embed_mlp_hidden_layers_width=settings.scalar_embed_width,
        num_layers=settings.num_layers,
        num_scalar_features=settings.num_scalar_features,
        num_tensor_features=settings.num_tensor_features,
        allegro_mlp_hidden_layers_depth=settings.latent_depth,
        allegro_mlp_hidden_layers_width=settings.latent_width,
        readout_mlp_hidden_layers_depth=settings.readout_depth,
        readout_mlp_hidden_layers_width=settings.readout_width,
        readout_mlp_nonlinearity=settings.readout_nonlinearity,
        avg_num_neighbors=settings.per_type("avg_num_neighbors")[0],
        per_type_energy_scales=dict(zip(names, per_type["energy_scales"], strict=True)),
        per_type_energy_shifts=dict(zip(names, per_type["energy_shifts"], strict=True)),
    )


def reference_model(settings: Any, seed: int = 1, compile_mode: str = "eager") -> Any:
    """Return nequip-allegro's model of one of our configurations, with fixed random weights."""
    from allegro.model import AllegroModel
    from nequip.model.utils import override_model_compile_mode
    from nequip.utils.global_state import set_global_state

    set_global_state()
    with override_model_compile_mode(compile_mode):
        return AllegroModel(**reference_settings(settings, seed))


def nequip_data(system: System) -> Any:
    """Return a structure as nequip takes it, graph included."""
    from nequip.data import AtomicDataDict, from_ase
    from nequip.data._nl import compute_neighborlist_

    data = from_ase(system.to_ase())
    data[AtomicDataDict.ATOM_TYPE_KEY] = system.types
    return compute_neighborlist_(data, r_max=CUTOFF, backend="ase")
