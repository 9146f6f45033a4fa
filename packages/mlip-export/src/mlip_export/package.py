"""compile(model, path): trace, build, compare with eager, and only then write the file."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from localgraph import EdgeModel, load_model
from mlip_export import inductor
from mlip_export.graphs import Edges, cluster, with_prime_edges
from mlip_export.loaded import open_function
from mlip_export.metadata import Metadata, write_metadata
from mlip_export.trace import TRACE_ATOMS, trace
from mlip_export.verify import Disagreement, Report, verify

log = logging.getLogger("mlip_export")

ISAS = ("native", "avx512", "avx2")


def compile(
    model: EdgeModel | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    device: str = "cpu",
    dtype: str | None = None,
    isa: str = "native",
    training: Mapping[str, Any] | None = None,
) -> Metadata:
    """Compile a model with its edge forces into one package that every host loads.

    The compiled program is compared with the eager model on graphs of several sizes, with one and more
    threads, without edges and with isolated atoms; a package that disagrees is never written. The file is
    written under a temporary name and renamed.

    Parameters
    ----------
    model : EdgeModel or path
        A model, or a model file written by ``localgraph.save_model``.
    path : path
        The package to write, ``*.pt2``.
    device : str
        ``cpu`` or ``cuda``.
    dtype : str, optional
        ``float32`` or ``float64``: rebuild the model with its config's ``dtype`` set to this.
    isa : str
        ``native``, ``avx512`` or ``avx2`` (runs on every x86 processor since about 2013; both need torch 2.13); cpu
        only. The code for ``native`` may use any instruction of this processor, of which the record holds the
        widest vectors alone: for a set of different machines name the instructions.
    training : mapping, optional
        Stored as the training summary; a model file brings its own.

    Returns
    -------
    Metadata
        What the package says about itself.

    Raises
    ------
    ValueError
        For an argument out of range, or a ``dtype`` the model's config does not have.
    Disagreement
        If compiled and eager results differ.
    """
    path = Path(path)
    _check_arguments(path, device, isa)
    if isinstance(model, (str, os.PathLike)):
        model, from_file = load_model(model)
        training = from_file if training is None else training
    elif not isinstance(model, EdgeModel):
        raise ValueError(
            f"model: required an EdgeModel or the path of a model file, got {type(model).__name__}"
        )
    ready = prepared(model, dtype, device)
    module = ready.for_inference()
    for p in module.parameters():
        p.requires_grad_(False)
    metadata = _describe(ready, device, isa, dict(training or {}))
    place = torch.device(device)
    example = Edges(*(t.to(place) for t in with_prime_edges(cluster(ready.cutoffs, TRACE_ATOMS))))
    program = trace(module, example)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        candidate = Path(folder) / path.name
        report = _build_verified(program, candidate, ready, metadata, isa, place)
        metadata = replace(metadata, verification=report.to_dict())
        write_metadata(candidate, metadata)
        os.replace(candidate, path)
    return metadata


def _build_verified(
    program: torch.export.ExportedProgram,
    path: Path,
    model: Any,
    metadata: Metadata,
    isa: str,
    device: torch.device,
) -> Report:
    """Build with fusion; where that disagrees with eager, build once more without."""
    try:
        return _build_once(program, path, model, metadata, isa, device, fuse=True)
    except Disagreement as e:
        log.warning("the fused program is wrong (%s); building it again without fusion", e)
        return _build_once(program, path, model, metadata, isa, device, fuse=False)


def _build_once(
    program: torch.export.ExportedProgram,
    path: Path,
    model: Any,
    metadata: Metadata,
    isa: str,
    device: torch.device,
    fuse: bool,
) -> Report:
    inductor.build(program, path, inductor.options(isa, metadata.to_strings(), fuse))
    return verify(open_function(path), model, model.cutoffs, metadata.dtype, device)


def _check_arguments(path: Path, device: str, isa: str) -> None:
    if path.suffix != ".pt2":
        raise ValueError(f"path: required a name ending in .pt2, got {str(path)!r}")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"path: required an existing folder, got {str(path.parent)!r}")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device: required 'cpu' or 'cuda', got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: required a CUDA device for 'cuda', got a machine where torch sees none")
    if isa not in ISAS:
        raise ValueError(f"isa: required one of {ISAS}, got {isa!r}")
    if isa != "native" and not inductor.can_target():
        raise ValueError(
            f"isa: required torch 2.13 or later to compile for {isa!r}, got torch {torch.__version__}, which "
            "compiles for this processor alone ('native')"
        )
    here = inductor.isa_of_this_machine()
    if inductor.ISA_ORDER.index(code_of(isa)) > inductor.ISA_ORDER.index(here):
        raise ValueError(
            f"isa: required at most {here}, which this processor runs (packages are tried before they are "
            f"written), got {isa!r}"
        )


def prepared(model: Any, dtype: str | None, device: str) -> Any:
    """A copy of the model in evaluation mode, in another precision where asked, on the device."""
    if dtype is None:
        model = copy.deepcopy(model)
    else:
        config = model.to_config()
        if "dtype" not in config:
            raise ValueError(
                f"dtype: required a model whose config has a dtype, got {model.model_name!r} with "
                f"{sorted(config)}"
            )
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype: required 'float32' or 'float64', got {dtype!r}")
        state = model.state_dict()
        model = type(model).from_config({**config, "dtype": dtype})
        model.load_state_dict(state)
    model = model.eval().to(device)
    for p in model.parameters():
        p.requires_grad_(False)
    return model


def _describe(model: Any, device: str, isa: str, training: dict[str, Any]) -> Metadata:
    state = model.state_dict()
    dtypes = {p.dtype for p in model.parameters()}
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        code = f"sm_{major}{minor}"
    else:
        code = code_of(isa)
    return Metadata(
        type_names=tuple(model.type_names),
        cutoff=float(model.cutoff),
        cutoffs=tuple(tuple(row) for row in model.cutoffs.double().cpu().tolist()),
        model=model.model_name,
        config=model.to_config(),
        dtype="float32" if torch.float32 in dtypes else "float64",
        device=device,
        isa=code,
        parameters=sum(p.numel() for p in model.parameters()),
        checksum=checksum(state),
        torch_version=torch.__version__.split("+")[0],
        exporter_version=_own_version(),
        training=training,
        verification={},
    )


def code_of(isa: str) -> str:
    """The instruction set that ``isa`` (one of ``ISAS``) stands for on this machine."""
    return inductor.isa_of_this_machine() if isa == "native" else isa


def checksum(state: Mapping[str, torch.Tensor]) -> str:
    """The sha256 of a state: names, shapes, dtypes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _own_version() -> str:
    from mlip_export import __version__

    return __version__
