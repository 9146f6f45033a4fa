"""Access to a nequip-allegro GraphModel by module name, tracking what was read."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from allegro_model.importers._view import CONSTANTS, kind_of

ACTIVATIONS = {"SiLU": "silu", "GELU": "gelu", "Mish": "mish", "Tanh": "tanh"}


class Network(NamedTuple):
    """A ScalarMLPFunction: matrices as stored, the factor on each when applied, the nonlinearity between them."""

    matrices: list[Tensor]
    factors: list[float]
    nonlinearity: str | None

    @property
    def depth(self) -> int:
        """Number of hidden layers."""
        return len(self.matrices) - 1

    @property
    def width(self) -> int:
        """Width of the first hidden layer, or of the output where there is none."""
        return self.matrices[0].shape[1]


class Source:
    """A GraphModel, a live one or a view of the file at ``path``; ``ValueError`` where it holds no Allegro."""

    def __init__(self, graph_model: Any, path: str | None = None):
        self.argument = "source" if path is None else "path"
        self.given = kind_of(graph_model) if path is None else repr(path)
        self.state: dict[str, Tensor] = graph_model.state_dict()
        prefix = _prefix_of(self.state)
        if prefix is None:
            raise ValueError(
                f"{self.argument} must be an Allegro model of nequip-allegro, got {self.given}, in which there is no "
                "Allegro_Module (a NequIP model has no counterpart here)"
            )
        self.prefix = prefix
        owner = graph_model.model
        for name in self.prefix.split(".")[1:-1]:
            owner = getattr(owner, name)
        self.parts: dict[str, Any] = dict(owner.named_children())
        self.type_names = [str(name) for name in graph_model.type_names]
        self.read: set[str] = set()
        self.problems: list[str] = []

    def get(self, name: str) -> Tensor:
        """Return a tensor by its name, marked as read."""
        self.read.add(self.prefix + name)
        return self.state[self.prefix + name].detach().cpu()

    def network(self, name: str) -> Network:
        """Return a ScalarMLPFunction; a bias or an unknown nonlinearity is a problem."""
        first, *rest = name.split(".")
        owner = self.parts[first]
        for part in rest:
            owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
        stack = owner.mlp
        prefix = f"{self.prefix}{name}.mlp."
        keys = [key for key in self.state if key.startswith(prefix)]
        self.read.update(keys)
        self.problems += [
            f"{key}: an MLP with a bias is not smooth at the cutoff and has no counterpart"
            for key in keys
            if key.endswith(".bias")
        ]
        if kind_of(stack) == "DeepLinearMLP":
            matrices = [w.detach().cpu() for w in stack.weights]
            return Network(matrices, [float(stack.alpha)] + [1.0] * (len(matrices) - 1), None)
        linear = [layer for layer in stack if kind_of(layer) == "ScalarLinearLayer"]
        kinds = {kind_of(layer) for layer in stack} - {"ScalarLinearLayer", "Identity"}
        unknown = sorted(kinds - set(ACTIVATIONS))
        if unknown:
            self.problems.append(f"{prefix}: nonlinearity {unknown} is none of {sorted(ACTIVATIONS)}")
        names = [ACTIVATIONS[kind] for kind in kinds if kind in ACTIVATIONS]
        matrices = [layer.weight.detach().cpu() for layer in linear]
        return Network(matrices, [float(layer.alpha) for layer in linear], names[0] if names else None)

    def name_unread(self) -> None:
        """Add a problem for every tensor that was not read and does not follow from settings."""
        for key, value in self.state.items():
            if key not in self.read and key.rsplit(".", 1)[-1] not in CONSTANTS:
                self.problems.append(f"{key}: a tensor of shape {tuple(value.shape)} has no counterpart")

    def fail_if_unmapped(self) -> None:
        """Raise ``ValueError`` with every problem found so far."""
        if self.problems:
            raise ValueError(
                f"{self.argument} must be a model with a counterpart here, got {self.given} with\n  "
                + "\n  ".join(self.problems)
            )


def _prefix_of(state: dict[str, Tensor]) -> str | None:
    """Return the prefix of the modules' tensors: below the derivative's module, or none of an energy model."""
    for prefix in ("model.func.", "model."):
        if prefix + "allegro.tps.0.weights" in state:
            return prefix
    return None
