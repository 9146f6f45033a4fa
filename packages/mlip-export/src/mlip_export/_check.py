"""Compare an exported model with the model file it was compiled from."""

from __future__ import annotations

import os

from localgraph import load_model
from mlip_export._model import bound_of, checksum, prepared, reference_model
from mlip_export._verify import error, verify
from mlip_export.graphs import comparison_graphs, reference_graphs
from mlip_export.model_file import ExportedModelError
from mlip_export.runtime import load


def check(path: str | os.PathLike[str], model_path: str | os.PathLike[str] | None = None) -> str:
    """Load an exported model, run it on the graphs of its comparison with eager, and compare it with its model file.

    Parameters
    ----------
    path : path
        The exported model.
    model_path : path, optional
        The model file it was compiled from; weights must be the same and results are compared.

    Returns
    -------
    str
        The outcome in one sentence.

    Raises
    ------
    ExportedModelError
        If it does not fit this machine, or its weights are not those of the model file.
    Disagreement
        If results differ.
    """
    potential = load(path)
    metadata = potential.metadata
    graphs = comparison_graphs(potential.cutoffs, potential.device)
    if model_path is None:
        for inputs in graphs.values():
            potential(*inputs)
        return f"{path}: runs here on {len(graphs)} graphs; give --model to compare with the eager model"
    model, _ = load_model(model_path)
    dtype = metadata.dtype if "dtype" in model.to_config() else None
    reference = reference_model(model)
    model = prepared(model, dtype, metadata.device)
    if checksum(model) != metadata.checksum:
        raise ExportedModelError(
            f"{path} must have the weights of {model_path}, got others (checksums differ)"
        )
    found = error(
        potential,
        reference,
        reference_graphs(reference.cutoffs, metadata.device),
        potential.device,
        bound_of(model, metadata.precision),
    )
    lost = f"in {metadata.precision} to {found.max_energy:.2g} eV per atom and {found.max_force:.2g} eV/Å of float64"
    if metadata.precision != "float32":  # eager has the precision of this process
        return f"{path}: agrees with {model_path}, {lost}"
    report = verify(potential, model, graphs, metadata.dtype)
    return (
        f"{path}: agrees with {model_path} in {report.comparisons} comparisons, to "
        f"{report.max_energy:.2g} eV per atom and {report.max_force:.2g} eV/Å; {lost}"
    )
