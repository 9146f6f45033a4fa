"""Write an exported model as a metatomic model, for programs that run these: i-PI, ASE and others."""

# Without postponed annotations: metatomic compares those of `forward` with its own classes.

import json
import os
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Optional  # noqa: UP035  # the names that TorchScript knows

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)
from torch import Tensor

from localgraph import ELEMENTS
from mlip_export._torchscript import LIBRARY, library
from mlip_export.model_file import ExportedModelError
from mlip_export.runtime import load


def export(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    extensions: str | os.PathLike[str] | None = None,
) -> None:
    """Write a metatomic model that evaluates an exported model.

    The output holds the compiled code, so it runs where the exported model does, and is as much a program. The first
    call compiles a library of C++ (half a minute), which programs load before the model.

    Parameters
    ----------
    path : path
        An exported model for CPUs with one type per element.
    output : path
        The metatomic model, by convention ``.pt``.
    extensions : path, optional
        A folder into which the library is copied, for the program that runs the model.

    Raises
    ------
    FileNotFoundError, mlip_export.ExportedModelError
        As :func:`mlip_export.load`, and for a model of another device or with several types of an element.
    mlip_export.lammps.BuildError
        Without a C++ compiler.
    """
    model = atomistic_model(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # metatomic compiles to TorchScript
        model.save(str(output))
    if extensions is not None:
        _copy_library(Path(output), Path(extensions))


def _copy_library(model: Path, folder: Path) -> None:
    """Copy the library into the folder, and name it in the model by its place there.

    metatomic does so for libraries of site-packages; of others it keeps the absolute path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(library(), folder / LIBRARY)
    part = model.with_name(model.name + ".part")
    with zipfile.ZipFile(model) as old, zipfile.ZipFile(part, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("/extra/extensions"):
                recorded = json.loads(data)
                for item in recorded:
                    item["path"] = LIBRARY if Path(item["path"]).name == LIBRARY else item["path"]
                data = json.dumps(recorded).encode()
            new.writestr(entry, data)
    os.replace(part, model)


def atomistic_model(path: str | os.PathLike[str]) -> AtomisticModel:
    """Return the model that :func:`export` writes."""
    potential = load(path)
    metadata = potential.metadata
    if metadata.device != "cpu":
        raise ExportedModelError(f"{path} must be compiled for cpu, got {metadata.device}")
    numbers = [ELEMENTS.index(symbol) + 1 for symbol in metadata.elements if symbol in ELEMENTS]
    if len(set(numbers)) < len(metadata.type_names):
        raise ExportedModelError(
            f"{path} must have one type per element, for metatomic names atoms by atomic numbers, got "
            f"{metadata.type_names} of the elements {metadata.elements}"
        )
    torch.ops.load_library(str(library()))  # type: ignore[no-untyped-call]
    capabilities = ModelCapabilities(
        outputs={"energy": ModelOutput(unit="eV", sample_kind="atom")},
        atomic_types=numbers,
        interaction_range=metadata.cutoff,
        length_unit="angstrom",
        supported_devices=["cpu"],
        dtype="float64",
    )
    about = ModelMetadata(
        name=f"{metadata.model} {metadata.checksum[:12]}",
        description=f"{metadata.model} in {metadata.dtype}, exported by mlip-export {metadata.exporter_version}",
    )
    module = _Module(str(Path(path).resolve()), numbers, potential.cutoffs)
    return AtomisticModel(module.eval(), about, capabilities)


class _Module(torch.nn.Module):
    """The interface of metatomic around the compiled potential."""

    type_of: Tensor
    cutoffs: Tensor

    def __init__(self, path: str, numbers: List[int], cutoffs: Tensor):  # noqa: UP006
        super().__init__()
        self.potential: Any = torch.classes.mlip_export.Potential(path)
        table = torch.full((len(ELEMENTS) + 1,), -1, dtype=torch.int64)
        table[numbers] = torch.arange(len(numbers))
        self.register_buffer("type_of", table)
        self.register_buffer("cutoffs", cutoffs)
        self.cutoff = float(cutoffs.max())

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
        return [NeighborListOptions(cutoff=self.cutoff, full_list=True, strict=True, requestor="mlip-export")]

    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels] = None,  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        results: Dict[str, TensorMap] = {}  # noqa: UP006
        if "energy" not in outputs:
            return results
        values: List[Tensor] = []  # noqa: UP006
        samples: List[Tensor] = []  # noqa: UP006
        options = self.requested_neighbor_lists()[0]
        per_atom = outputs["energy"].sample_kind == "atom"
        for place, system in enumerate(systems):
            energies = self.energies(system, options)
            atoms = torch.arange(energies.shape[0], device=energies.device)
            if selected_atoms is not None:
                here = selected_atoms.column("system") == place
                atoms = selected_atoms.column("atom")[here].to(torch.int64)
            energies = energies[atoms]
            if per_atom:
                values.append(energies)
                samples.append(torch.stack([torch.full_like(atoms, place), atoms], dim=1))
            else:
                values.append(energies.sum().reshape(1))
                samples.append(torch.full((1, 1), place, dtype=torch.int64))
        names = ["system", "atom"] if per_atom else ["system"]
        components: List[Labels] = []  # noqa: UP006
        block = TensorBlock(
            values=torch.cat(values).reshape(-1, 1),
            samples=Labels(names, torch.cat(samples).to(torch.int32)),
            components=components,
            properties=Labels(["energy"], torch.tensor([[0]])),
        )
        results["energy"] = TensorMap(keys=Labels(["_"], torch.tensor([[0]])), blocks=[block])
        return results

    def energies(self, system: System, options: NeighborListOptions) -> Tensor:
        """Return the energies of a system's atoms (N,), eV."""
        neighbors = system.get_neighbor_list(options)
        pairs = neighbors.samples.values[:, :2].to(torch.int64)
        vectors = neighbors.values.reshape(-1, 3)
        types = self.type_of[system.types.to(torch.int64)]
        limits = self.cutoffs[types[pairs[:, 0]], types[pairs[:, 1]]]
        inside = torch.nonzero(vectors.detach().square().sum(1) < limits * limits).flatten()
        order = inside[torch.argsort(pairs[inside, 0], stable=True)]
        energies: Tensor = self.potential.energies(vectors[order], pairs[order].t().contiguous(), types)
        return energies
