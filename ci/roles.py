"""Sphinx roles of docstrings (``:class:`name```) as links of the site where it has a page for the name."""

from __future__ import annotations

import re
from typing import Any

import griffe

PACKAGES = ("equitensor", "localgraph", "allegro_model", "mlip_train", "mlip_export", "spice_data")
ROLE = re.compile(r":(?:class|func|meth|attr|mod|data|exc):`(~?)([\w.]+)`")


class Roles(griffe.Extension):
    """Rewrite roles when an object is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the roles of one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(lambda role: self._link(obj, role), obj.docstring.value)

    def _link(self, obj: griffe.Object, role: re.Match[str]) -> str:
        short, name = role.groups()
        package = obj.package.name
        target = name if name.split(".")[0] in PACKAGES else f"{package}.{name}"
        text = name.rsplit(".", 1)[-1] if short else name
        return f'<autoref optional identifier="{target}"><code>{text}</code></autoref>'
