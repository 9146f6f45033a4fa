"""Copies of a model to export and to compare with, and what the metadata holds of it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import torch


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


def model_fields(model: Any) -> dict[str, Any]:
    """Return the fields of the metadata that describe a model."""
    return {
        "type_names": tuple(model.type_names),
        "elements": tuple(getattr(model, "elements", model.type_names)),
        "cutoff": float(model.cutoff),
        "cutoffs": tuple(tuple(row) for row in model.cutoffs.double().cpu().tolist()),
        "model": model.model_name,
        "config": model.to_config(),
        "dtype": kind_of(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "checksum": checksum(model.state_dict()),
    }


def checksum(state: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of a state: names, shapes, dtypes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
