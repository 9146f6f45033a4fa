"""Copies of a model to export and to compare with, and what the metadata holds of it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from localgraph import EdgeModel
from mlip_export.graphs import Inputs


def _module(model: EdgeModel) -> nn.Module:
    return cast(nn.Module, model)


def prepared(model: EdgeModel, dtype: str | None, device: str, fused: bool = False) -> EdgeModel:
    """Return a copy of the model in evaluation mode, in ``dtype`` if given, with fused layers or not, on the device."""
    changes: dict[str, Any] = {}
    if dtype is not None:
        if "dtype" not in model.to_config():
            raise ValueError(
                f"dtype must be None for model {model.model_name!r}, whose config has no dtype, got {dtype!r}"
            )
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
        changes["dtype"] = dtype
    config = model.to_config()
    if fused and "fused_layers" not in config:
        raise ValueError(
            f"fused must be False for model {model.model_name!r}, whose config has no fused_layers, got True"
        )
    if bool(config.get("fused_layers")) != fused:
        changes["fused_layers"] = fused
    copied = _rebuilt(model, **changes) if changes else copy.deepcopy(model)
    _module(copied).eval().to(device).requires_grad_(False)
    return copied


def reference_model(model: EdgeModel) -> EdgeModel:
    """Return the model on the CPU, in float64 where its config has a ``dtype``, hidden layers included."""
    config = model.to_config()
    exact = {key: value for key, value in {"dtype": "float64", "mlp_dtype": None}.items() if key in config}
    return prepared(_rebuilt(model, **exact) if "dtype" in config else model, None, "cpu")


TABLE_ERRORS = 1e-9, 1e-6
"""eV/Å; above, compiled code would differ from the eager model by more than rounding does."""
MEASURED = ("125 atoms", "64 atoms, few neighbors", "27 atoms and 5 isolated", "2 atoms")
"""Graphs on which tables are compared with the model in float64: small ones."""


def for_inference(
    model: EdgeModel, two_body_table: float | None, graphs: Mapping[str, Inputs]
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the module to export, with tables of this tolerance if given, and what was measured of them."""
    if two_body_table is None:
        return model.for_inference(), {}
    least, most = TABLE_ERRORS
    if not least <= two_body_table <= most:
        raise ValueError(f"two_body_table must be from {least:g} to {most:g} eV/Å, got {two_body_table!r}")
    tabulated = getattr(model, "tabulated", None)
    if tabulated is None:
        raise ValueError(
            f"two_body_table must be None for model {model.model_name!r}, which has no method tabulated, got "
            f"{two_body_table!r}"
        )
    if kind_of(model) != "float32":
        raise ValueError(
            f"two_body_table must be None for a model without float32 weights, got {two_body_table!r}"
        )
    measured = [tuple(t.cpu() for t in graphs[name]) for name in MEASURED]
    try:
        module, report = tabulated(two_body_table, measured)
    except ValueError as e:
        raise ValueError(
            f"two_body_table must be a tolerance that tables of this model keep, got {two_body_table!r}: {e}"
        ) from e
    return module, report


def _rebuilt(model: EdgeModel, **changes: Any) -> EdgeModel:
    """Return a model with the same weights and some fields of the configuration changed."""
    copied = type(model).from_config({**model.to_config(), **changes})
    _module(copied).load_state_dict(_module(model).state_dict())
    return copied


def kind_of(model: EdgeModel) -> str:
    """Return ``float32`` where any parameter is, else ``float64``."""
    return "float32" if torch.float32 in {p.dtype for p in _module(model).parameters()} else "float64"


def agreement_of(model: EdgeModel, rounded: bool = False) -> str:
    """Return the name of the tolerance on compiled against eager code: fused layers round to TF32 in both.

    ``rounded``: so do products of the compiled code.
    """
    return "tf32" if rounded or model.to_config().get("fused_layers") else kind_of(model)


def bound_of(model: EdgeModel, precision: str) -> str:
    """Return the name of the bound on the errors of a model that is exported in a precision."""
    if kind_of(model) == "float64":
        return "float64"
    return "bf16" if model.to_config().get("mlp_dtype") else precision


def model_fields(model: EdgeModel) -> dict[str, Any]:
    """Return the fields of the metadata that describe a model."""
    return {
        "type_names": tuple(model.type_names),
        "elements": tuple(getattr(model, "elements", model.type_names)),
        "cutoff": float(model.cutoff),
        "cutoffs": tuple(tuple(row) for row in model.cutoffs.double().cpu().tolist()),
        "model": model.model_name,
        "config": model.to_config(),
        "dtype": kind_of(model),
        "parameters": sum(p.numel() for p in _module(model).parameters()),
        "checksum": checksum(model),
    }


def checksum(model: EdgeModel) -> str:
    """Return the sha256 of the weights: names, shapes, dtypes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(_module(model).state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
