"""Build a traced program, and compare what was built with the eager model and with float64."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from localgraph import EdgeModel, energies_and_edge_forces
from mlip_export import inductor
from mlip_export._model import agreement_of, bound_of, kind_of
from mlip_export._precision import product_precision, setting
from mlip_export._verify import Disagreement, error, verify
from mlip_export.graphs import Graphs
from mlip_export.loaded import Function, open_function

log = logging.getLogger("mlip_export")


def build_verified(
    program: torch.export.ExportedProgram,
    path: Path,
    model: EdgeModel,
    reference: EdgeModel,
    graphs: Graphs,
    isa: str,
    precision: str,
    products: str,
    function: Function | None = None,
) -> tuple[Function, dict[str, Any]]:
    """Build with fusion, or without where that disagrees with eager; then compare with float64, in the precision.

    Fused and eager code are compared in full precision. Of bf16 products the program has no eager counterpart; then the
    model's locality is checked alone.

    Parameters
    ----------
    program : ExportedProgram
        Of the model and its edge forces.
    path : Path
        The file to build.
    model, reference : EdgeModel
        The model, and the same in float64 on the CPU.
    graphs : Graphs
        To compare on.
    isa, precision : str
        As for :func:`mlip_export.compile`.
    products : str
        Kind of matrix products in the program; ``chained`` ones round to ``precision`` whatever torch is set to.
    function : callable, optional
        The program built with fusion, where ``path`` holds it already.

    Returns
    -------
    function : callable
        The compiled function.
    found : dict
        The metadata's ``verification``.

    Raises
    ------
    Disagreement
        If results differ by more than the bounds.
    """
    fused, place = inductor.options(isa), graphs.traced.types.device

    rounded = products == "chained" and precision == "tf32"

    def build(options: Mapping[str, Any]) -> Function:
        inductor.build(program, path, options)
        return open_function(path, place)

    def compare(function: Function) -> dict[str, Any]:
        with product_precision(place.type, "float32"):
            if precision == "bf16":
                eager = partial(energies_and_edge_forces, model)
                verify(eager, model, graphs.compared, kind_of(model), (1,))
                return {}
            return verify(function, model, graphs.compared, agreement_of(model, rounded)).to_dict()

    function = function or build(fused)
    try:
        found = compare(function)
    except Disagreement as e:
        log.warning("the fused program is wrong (%s); building it again without fusion", e)
        function = build(fused | {"max_fusion_size": 1})
        found = compare(function)
    with product_precision(place.type, setting(place.type, precision)):
        lost = error(function, reference, graphs.reference, place, bound_of(model, precision))
    return function, found | {"float64": lost.to_dict()}
