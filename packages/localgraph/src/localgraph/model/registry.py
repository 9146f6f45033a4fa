"""Model classes by name: registered in this process, or announced by installed packages."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, TypeVar

MODELS = "mlip.models"

_REQUIRED = (
    "from_config",
    "to_config",
    "cutoffs_of",
    "cutoffs",
    "for_inference",
    "shift_energies",
    "__call__",
)
_registered: dict[str, type] = {}

Class = TypeVar("Class", bound=type)


def register(cls: Class) -> Class:
    """Register a model class under its ``model_name``, for this process; usable as a decorator.

    A class of the same module and qualified name replaces the earlier one, so a notebook cell may run again.
    A package announces its class under the entry-point group ``mlip.models`` instead.

    Parameters
    ----------
    cls : type
        A class that satisfies :class:`localgraph.EdgeModel`.

    Returns
    -------
    type
        ``cls``.

    Raises
    ------
    TypeError
        If ``cls`` lacks members of the protocol; the message lists them.
    ValueError
        If the name belongs to another class.
    """
    name = getattr(cls, "model_name", None)
    missing = [member for member in _REQUIRED if not hasattr(cls, member)]
    if not isinstance(name, str):
        missing.insert(0, "model_name")
    if missing or not isinstance(name, str):
        raise TypeError(f"cls must be a class with the members of EdgeModel, got {cls!r} without {missing}")
    old = _registered.get(name) or _announced(name)
    if old is not None and (old.__module__, old.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"cls must have a model_name of its own, got {name!r}, which is {old!r}")
    _registered[name] = cls
    return cls


def model_class(name: str) -> Any:
    """Return the model class registered as ``name``.

    Raises
    ------
    ValueError
        If there is none; the message lists the registered names.
    """
    found = _registered.get(name) or _announced(name)
    if found is None:
        names = sorted({*_registered, *(e.name for e in entry_points(group=MODELS))})
        raise ValueError(
            f"name must be one of the registered models {names} (localgraph.register, or the entry-point group "
            f"{MODELS!r} of an installed package), got {name!r}"
        )
    return found


def _announced(name: str) -> type | None:
    """Return the class that an installed package announces as ``name``."""
    found = entry_points(group=MODELS, name=name)
    return next(iter(found)).load() if found else None
