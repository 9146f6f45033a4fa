"""Compile a model with its edge forces into one file: trace, build, compare with eager, write."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from localgraph import EdgeModel, atomic_write, load_model
from mlip_export import inductor
from mlip_export._build import build_verified
from mlip_export._limits import INDEX_LIMIT, sizes
from mlip_export._model import for_inference, kind_of, model_fields, prepared, reference_model
from mlip_export._precision import PRECISIONS, can_bf16
from mlip_export._trace import trace
from mlip_export.graphs import Graphs, example_graphs
from mlip_export.loaded import Function
from mlip_export.model_file import Metadata, write_exported
from mlip_export.products.chain_choose import CHAINED, check_triton, chosen
from mlip_export.products.pack import LANES
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
    fused: bool = False,
    two_body_table: float | None = None,
    chained: str = "no",
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
        only. Code for ``native`` may use any instruction of this processor, but loading checks only for AMX and the
        width of vectors: choose ``avx2`` or ``avx512`` for a file that other kinds of processors will run.
    precision : str
        What products of float32 matrices may round their operands to, in every host, whatever its process is set to:
        ``float32`` (they do not round), ``tf32`` (cuda: 10 bits) or ``bf16`` (cpu with AVX-512 BF16 or AMX: 7 bits,
        products too).
        The metadata holds the error against float64, above whose bound the file is not written.
    fused : bool
        Evaluate a layer's work on edges by one kernel whose hidden layers stay on chip: cuda with ``precision="tf32"``,
        for models whose config has ``fused_layers``, which the metadata's config then holds as true. Sizes without a
        kernel are refused. Without it a model is exported composed, however it was trained.
    two_body_table : float, optional
        Tabulate what depends on an edge's length and types alone, with forces that differ from the model's by at most
        this, eV/Å, from 1e-9 to 1e-6: for float32 models with a method ``tabulated``, such as Allegro. The error is
        measured in float64 before anything is compiled, on two atoms of every pair of types at lengths from near 0 to
        the cutoff (relative there for forces above 1 eV/Å) and on clusters, and stored in the metadata. Off by
        default: the tables of many types are large, and those of wide layers are not faster.
    chained : str
        Compute two hidden layers in one kernel, and the two products of their gradient in another, with intermediate
        results on chip: ``yes`` wherever the widths have a kernel, ``measured`` if the whole program is faster with
        these kernels, or ``no``. cuda only, with Triton 3.5 or newer. In ``float32`` the kernels split an operand into
        two TF32 numbers (21 bits of mantissa instead of 23). They have not run on a GPU yet.
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
    from mlip_export import __version__

    path = Path(path)
    _check_arguments(path, device, isa)
    _check_precision(precision, device)
    _check_fused(fused, device, precision)
    _check_chained(chained, device)
    if isinstance(model, EdgeModel):
        source = model
    elif isinstance(model, (str, os.PathLike)):
        source, from_file = load_model(model)
        training = from_file if training is None else training
    else:
        raise ValueError(
            f"model must be an EdgeModel or the path of a model file, got {type(model).__name__}"
        )
    ready, reference = prepared(source, dtype, device, fused), reference_model(source)
    if precision != "float32" and kind_of(ready) == "float64":
        raise ValueError(
            f"precision must be 'float32' for a model without float32 weights, got {precision!r}"
        )
    graphs = example_graphs(ready.cutoffs, torch.device(device))
    module, table = for_inference(ready, two_body_table, graphs.compared)
    module.requires_grad_(False)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        candidate = Path(folder) / path.name
        program, built, record = _program(module, graphs, candidate, isa, device, precision, chained)
        kept = record.get("chosen", "torch")
        function, found = build_verified(
            program, candidate, ready, reference, graphs, isa, precision, kept, built
        )
        metadata = Metadata(
            **model_fields(ready),
            **sizes(program, function, graphs),
            precision=precision,
            device=device,
            isa=gpu_architecture() if device == "cuda" else inductor.code_of(isa),
            torch_version=torch.__version__.split("+")[0],
            exporter_version=__version__,
            training=dict(training or {}),
            verification=found,
            products=record,
            two_body_table=table,
        )
        with atomic_write(path) as file:
            write_exported(file, candidate, metadata)
    return metadata


def _program(
    module: torch.nn.Module,
    graphs: Graphs,
    path: Path,
    isa: str,
    device: str,
    precision: str,
    chained: str,
) -> tuple[torch.export.ExportedProgram, Function | None, dict[str, Any]]:
    """Return the program with the products of the options, compiled where it had to be, and what was measured."""
    if device == "cpu" and precision == "float32":
        return _fastest(module, graphs, path, isa)
    limit = INDEX_LIMIT if device == "cuda" else None
    if chained != "no":
        return chosen(module, graphs, path, precision, chained, limit)
    return trace(module, graphs.traced, limit, precision == "bf16"), None, {}


def _fastest(
    module: torch.nn.Module, graphs: Graphs, path: Path, isa: str
) -> tuple[torch.export.ExportedProgram, Function | None, dict[str, Any]]:
    """Return the program with the faster products, compiled where it had to be to know, and what was measured."""
    if inductor.code_of(isa) in LANES:
        try:
            from mlip_export.products.choose import fastest, lanes_of
            from mlip_export.products.rewrite import Products
        except (ImportError, AttributeError) as e:  # Inductor's templates are not public
            log.warning(
                "matrix products are left to torch %s, which lacks what ours need: %s", torch.__version__, e
            )
        else:
            products = Products(lanes_of(isa))
            return *fastest(module, graphs, path, isa, products), asdict(products)
    return trace(module, graphs.traced), None, {}


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
    if inductor.ISA_ORDER.index(inductor.code_of(isa)) > inductor.ISA_ORDER.index(here):
        raise ValueError(
            f"isa must be at most {here}, which this processor runs (compiled code is compared before it is written), "
            f"got {isa!r}"
        )


def _check_precision(precision: str, device: str) -> None:
    if precision not in PRECISIONS[device]:
        raise ValueError(f"precision must be one of {PRECISIONS[device]} on {device}, got {precision!r}")
    if precision == "bf16" and not can_bf16():
        raise ValueError("precision must be 'float32' on a processor without AVX-512 BF16 or AMX, got 'bf16'")


def _check_fused(fused: bool, device: str, precision: str) -> None:
    if fused and (device, precision) != ("cuda", "tf32"):
        raise ValueError(
            "fused must be False but for device 'cuda' with precision 'tf32', to which the fused kernels round, got "
            f"True for {device!r} with {precision!r}"
        )


def _check_chained(chained: str, device: str) -> None:
    if chained not in CHAINED:
        raise ValueError(f"chained must be one of {CHAINED}, got {chained!r}")
    if chained == "no":
        return
    if device != "cuda":
        raise ValueError(f"chained must be 'no' on {device}, got {chained!r}")
    check_triton(chained)
