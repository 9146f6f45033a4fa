"""Records of modules, seen as modules: attributes, children and tensors by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from allegro_model.importers._pickle import Record

CONSTANTS = (
    "_empty",
    "w3j",
    "alpha",
    "_rmax_recip",
    "norm_const",
    "atomic_numbers",
    "_qqr2exesquare",
    "_rtoi",
    "lower",
    "upper",
)
"""Last names of tensors that follow from the settings; no moving average holds them and nothing maps them."""


class ModuleView:
    """A module of a file: its kind (class name), plain attributes, tensors and children; nothing to call."""

    def __init__(self, kind: str):
        self.kind = kind
        self.attributes: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self.children: dict[str, ModuleView] = {}

    @classmethod
    def of(cls, record: Any) -> ModuleView:
        """View a record of a pickled module; other objects are views without content."""
        view = cls(record.kind.rsplit(".", 1)[-1] if isinstance(record, Record) else type(record).__name__)
        state = record.state if isinstance(record, Record) else None
        if not isinstance(state, dict):
            return view
        for group in ("_parameters", "_buffers"):
            tensors = state.get(group)
            if isinstance(tensors, dict):
                view.tensors.update({k: v for k, v in tensors.items() if isinstance(v, Tensor)})
        modules = state.get("_modules")
        if isinstance(modules, dict):
            view.children = {name: cls.of(child) for name, child in modules.items() if child is not None}
        view.attributes = {k: v for k, v in state.items() if k not in ("_parameters", "_buffers", "_modules")}
        return view

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            for group in (self.children, self.tensors, self.attributes):
                if name in group:
                    return group[name]
        raise AttributeError(f"{self.kind} has no {name}")

    def __getitem__(self, index: int) -> Any:
        return list(self)[index]

    def __iter__(self) -> Iterator[Any]:
        return iter([*self.children.values(), *self.tensors.values()])

    def named_children(self) -> list[tuple[str, ModuleView]]:
        """Return the children with their names."""
        return list(self.children.items())

    def state_dict(self) -> dict[str, Tensor]:
        """Return every tensor by its dotted name."""
        out = dict(self.tensors)
        for name, child in self.children.items():
            out.update({f"{name}.{key}": value for key, value in child.state_dict().items()})
        return out

    def child(self, name: str) -> ModuleView:
        """Return the child of a dotted name, made where there is none."""
        head, _, rest = name.partition(".")
        found = self.children.setdefault(head, ModuleView("Module"))
        return found.child(rest) if rest else found


def kind_of(module: Any) -> str:
    """Return the class name of a live module or of a view."""
    return module.kind if isinstance(module, ModuleView) else type(module).__name__


def irreps_of(irreps: Any) -> tuple[tuple[int, int], ...]:
    """Return (l, p) of each of some Irreps of e3nn, live or as a record."""
    out = []
    for _, ir in irreps:
        if isinstance(ir, Record):
            ell, parity = ir.args[0] if len(ir.args) == 1 else ir.args
            out.append((int(ell), int(parity)))
        elif type(ir) is tuple:
            out.append((int(ir[0]), int(ir[1])))
        else:
            out.append((int(ir.l), int(ir.p)))
    return tuple(out)
