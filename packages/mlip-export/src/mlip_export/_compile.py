"""Compile a model with its edge forces into one file: trace, build, compare with eager, write."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from localgraph import EdgeModel, atomic_write, energies_and_edge_forces, load_model
from mlip_export import inductor
from mlip_export._limits import INDEX_LIMIT, largest, memory, widths
from mlip_export._precision import PRECISIONS, can_bf16, product_precision, setting
from mlip_export._trace import trace
from mlip_export._verify import Disagreement, Error, error, verify
from mlip_export.graphs import Inputs, comparison_graphs, reference_graphs, traced_graph
from mlip_export.loaded import Function, open_function
from mlip_export.model_file import EDGES_PER_CALL, Metadata, write_exported
from mlip_export.runtime import gpu_architecture

log = logging.getLogger("mlip_export")

ISAS = ("native", "avx512", "avx2")


def compile(
    model: EdgeModel | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    device: str = "cpu",
    dtype: str | None = None,
    isa: str = "native",
    precision: str = "float32",
    training: Mapping[str, Any] | None = None,
) -> Metadata:
    """Compile a model with its edge forces into one exported model that every host loads.

    The compiled program is compared with the eager model on graphs of several sizes, with one and more threads, without
    edges and with isolated atoms; and in its precision with the model in float64 on the CPU, for a GPU also on 20,180
    atoms. A program that disagrees is not written; the file is written atomically.

    Parameters
    ----------
    model : EdgeModel or path
        A model, or a model file written by ``localgraph.save_model``.
    path : path
        The exported model to write, ``*.pt2``.
    device : str
        ``cpu`` or ``cuda``.
    dtype : str, optional
        ``float32`` or ``float64``: rebuild the model with its config's ``dtype`` set to this.
    isa : str
        ``native``, ``avx512`` or ``avx2`` (Intel since Haswell, AMD since Excavator; both need torch 2.13); cpu
        only. Code for ``native`` may use any instruction of this processor, but loading checks only the vector width:
        choose ``avx2`` or ``avx512`` for a file that other kinds of processors will run.
    precision : str
        What products of float32 matrices may round their operands to, in every host, whatever its process is set to:
        ``float32`` (they do not round), ``tf32`` (cuda: 10 bits) or ``bf16`` (cpu with AVX-512 BF16 or AMX: 7 bits,
        products too).
        The metadata holds the error against float64, above whose bound the file is not written.
    training : mapping, optional
        Stored as the training summary; a model file brings its own.

    Returns
    -------
    Metadata
        The metadata of the file.

    Raises
    ------
    ValueError
        For an argument out of range, or a ``dtype`` the model's config does not have.
    Disagreement
        If compiled and eager results differ, or the precision loses too much.
    """
    path = Path(path)
    _check_arguments(path, device, isa)
    _check_precision(precision, device)
    if isinstance(model, (str, os.PathLike)):
        model, from_file = load_model(model)
        training = from_file if training is None else training
    elif not isinstance(model, EdgeModel):
        raise ValueError(
            f"model must be an EdgeModel or the path of a model file, got {type(model).__name__}"
        )
    ready = prepared(model, dtype, device)
    if precision != "float32" and kind_of(ready) == "float64":
        raise ValueError(
            f"precision must be 'float32' for a model without float32 weights, got {precision!r}"
        )
    module = ready.for_inference()
    for p in module.parameters():
        p.requires_grad_(False)
    place = torch.device(device)
    example = traced_graph(ready.cutoffs, place)
    program = trace(module, example, INDEX_LIMIT if device == "cuda" else None, precision == "bf16")
    graphs = comparison_graphs(ready.cutoffs, place)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        candidate = Path(folder) / path.name
        function, found = _build_verified(program, candidate, ready, graphs, isa, precision)
        found |= {"float64": _error(function, model, ready, place, precision).to_dict()}
        sizes = _sizes(program, example, function, ready.cutoffs)
        metadata = _describe(ready, device, isa, precision, dict(training or {}), found, sizes)
        with atomic_write(path) as file:
            write_exported(file, candidate, metadata)
    return metadata


def _build_verified(
    program: torch.export.ExportedProgram,
    path: Path,
    model: EdgeModel,
    graphs: Mapping[str, Inputs],
    isa: str,
    precision: str,
) -> tuple[Function, dict[str, Any]]:
    """Build with fusion, or without where that disagrees with eager; both are compared in full precision.

    Of bf16 products the program has no eager counterpart; then the model's locality is checked alone.
    """
    fused = inductor.options(isa)

    def build(options: Mapping[str, Any]) -> tuple[Function, dict[str, Any]]:
        inductor.build(program, path, options)
        function = open_function(path)
        with product_precision(model.cutoffs.device.type, "float32"):
            if precision == "bf16":
                verify(partial(energies_and_edge_forces, model), model, graphs, kind_of(model), (1,))
                return function, {}
            return function, verify(function, model, graphs, kind_of(model)).to_dict()

    try:
        return build(fused)
    except Disagreement as e:
        log.warning("the fused program is wrong (%s); building it again without fusion", e)
        return build(fused | {"max_fusion_size": 1})


def _error(function: Function, model: Any, ready: Any, device: torch.device, precision: str) -> Error:
    """Compare a compiled function, in its precision, with the model in float64 on the CPU."""
    reference = reference_model(model)
    with product_precision(device.type, setting(device.type, precision)):
        return error(
            function,
            reference,
            reference_graphs(reference.cutoffs, device.type),
            device,
            bound_of(ready, precision),
        )


def reference_model(model: Any) -> Any:
    """Return the model on the CPU, in float64 where its config has a ``dtype``, hidden layers included."""
    config = model.to_config()
    if "dtype" not in config:
        return prepared(model, None, "cpu")
    exact = {"dtype": "float64"} | ({"mlp_dtype": None} if "mlp_dtype" in config else {})
    reference = type(model).from_config({**config, **exact})
    reference.load_state_dict(model.state_dict())
    return prepared(reference, None, "cpu")


def bound_of(model: Any, precision: str) -> str:
    """Return the name of the bound on the errors of a model that is exported in a precision."""
    if kind_of(model) == "float64":
        return "float64"
    return "bf16" if model.to_config().get("mlp_dtype") else precision


def _check_arguments(path: Path, device: str, isa: str) -> None:
    if path.suffix != ".pt2":
        raise ValueError(f"path must be a name ending in .pt2, got {str(path)!r}")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"path must be in an existing folder, got {str(path)!r}")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be 'cpu' where torch sees no CUDA device, got 'cuda'")
    if isa not in ISAS:
        raise ValueError(f"isa must be one of {ISAS}, got {isa!r}")
    if isa != "native" and not inductor.can_target():
        raise ValueError(
            f"isa must be 'native' with torch {torch.__version__}, which compiles for this processor alone (2.13 "
            f"compiles for others), got {isa!r}"
        )
    here = inductor.isa_of_this_machine()
    if inductor.ISA_ORDER.index(code_of(isa)) > inductor.ISA_ORDER.index(here):
        raise ValueError(
            f"isa must be at most {here}, which this processor runs (compiled code is compared before it is written), "
            f"got {isa!r}"
        )


def _check_precision(precision: str, device: str) -> None:
    if precision not in PRECISIONS[device]:
        raise ValueError(f"precision must be one of {PRECISIONS[device]} on {device}, got {precision!r}")
    if precision == "bf16" and not can_bf16():
        raise ValueError("precision must be 'float32' on a processor without AVX-512 BF16 or AMX, got 'bf16'")


def prepared(model: Any, dtype: str | None, device: str) -> Any:
    """Return a copy of the model in evaluation mode, in the precision ``dtype`` if given, on the device."""
    if dtype is None:
        model = copy.deepcopy(model)
    else:
        config = model.to_config()
        if "dtype" not in config:
            raise ValueError(
                f"dtype must be None for model {model.model_name!r}, whose config has no dtype, got {dtype!r}"
            )
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
        state = model.state_dict()
        model = type(model).from_config({**config, "dtype": dtype})
        model.load_state_dict(state)
    model = model.eval().to(device)
    for p in model.parameters():
        p.requires_grad_(False)
    return model


def kind_of(model: Any) -> str:
    """Return ``float32`` where any parameter is, else ``float64``."""
    return "float32" if torch.float32 in {p.dtype for p in model.parameters()} else "float64"


def _sizes(
    program: torch.export.ExportedProgram, example: Inputs, function: Function, cutoffs: torch.Tensor
) -> dict[str, Any]:
    """Return the metadata's limits of one call: indices of the program, and memory of its compiled function."""
    place = example.types.device
    max_edges, max_atoms = largest(widths(program, example), place.type)
    per_edge, per_atom = memory(function, cutoffs.cpu(), place)
    return {
        "edges_per_call": min(EDGES_PER_CALL[place.type], max_edges),
        "max_edges": max_edges,
        "max_atoms": max_atoms,
        "bytes_per_edge": per_edge,
        "bytes_per_atom": per_atom,
    }


def _describe(
    model: Any,
    device: str,
    isa: str,
    precision: str,
    training: dict[str, Any],
    verification: dict[str, Any],
    sizes: dict[str, Any],
) -> Metadata:
    from mlip_export import __version__

    return Metadata(
        type_names=tuple(model.type_names),
        elements=tuple(getattr(model, "elements", model.type_names)),
        cutoff=float(model.cutoff),
        cutoffs=tuple(tuple(row) for row in model.cutoffs.double().cpu().tolist()),
        model=model.model_name,
        config=model.to_config(),
        dtype=kind_of(model),
        precision=precision,
        device=device,
        isa=gpu_architecture() if device == "cuda" else code_of(isa),
        parameters=sum(p.numel() for p in model.parameters()),
        checksum=checksum(model.state_dict()),
        torch_version=torch.__version__.split("+")[0],
        exporter_version=__version__,
        training=training,
        verification=verification,
        **sizes,
    )


def code_of(isa: str) -> str:
    """Return the instruction set that ``isa`` (one of ``ISAS``) stands for on this machine."""
    return inductor.isa_of_this_machine() if isa == "native" else isa


def checksum(state: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of a state: names, shapes, dtypes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
