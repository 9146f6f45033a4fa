"""Does a package run here, and does it still agree with its model?"""

from __future__ import annotations

import os

from localgraph import load_model
from mlip_export.metadata import PackageError, read_metadata
from mlip_export.package import checksum, prepared
from mlip_export.runtime import load
from mlip_export.verify import cases, verify


def check(path: str | os.PathLike[str], model_path: str | os.PathLike[str] | None = None) -> str:
    """Load a package, run it on the graphs on which it was compared when written, and compare with its model.

    Parameters
    ----------
    path : path
        The package.
    model_path : path, optional
        The model file it was compiled from; weights must be the same and results are compared.

    Returns
    -------
    str
        What was found, in a sentence.

    Raises
    ------
    PackageError
        If the package does not fit this machine, or its weights are not those of the model file.
    Disagreement
        If results differ.
    """
    potential = load(path)
    metadata = read_metadata(path)
    if model_path is None:
        graphs = cases(potential.cutoffs)
        for edges in graphs.values():
            potential(*(t.to(potential.device) for t in edges))
        return f"{path}: runs here on {len(graphs)} graphs; give --model to compare with the eager model"
    model, _ = load_model(model_path)
    dtype = metadata.dtype if "dtype" in model.to_config() else None
    model = prepared(model, dtype, metadata.device)
    if checksum(model.state_dict()) != metadata.checksum:
        raise PackageError(f"{path}: required the weights of {model_path}, got others (checksums differ)")
    report = verify(potential, model, potential.cutoffs, metadata.dtype, potential.device)
    return (
        f"{path}: agrees with {model_path} in {report.comparisons} comparisons, to "
        f"{report.max_energy:.2g} eV per atom and {report.max_force:.2g} eV/Å"
    )
