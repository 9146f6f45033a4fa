"""Time energy and forces of an exported model on a structure."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence

import ase.io
import torch

from mlip_export.ase import Calculator


def bench(
    path: str | os.PathLike[str],
    structure: str | os.PathLike[str],
    repeats: int = 10,
    threads: Sequence[int] | None = None,
) -> str:
    """Return the best times of energy and forces through ASE, neighbor list included.

    Parameters
    ----------
    path : path
        The exported model.
    structure : path
        Any file that ASE reads.
    repeats : int
        Evaluations timed, at least 1; the best is reported.
    threads : sequence of int, optional
        Thread counts to try; by default torch's current one. The count is restored.

    Returns
    -------
    str
        A table, one line per thread count.

    Raises
    ------
    FileNotFoundError, ExportedModelError
        As :func:`mlip_export.load`; also without the structure's file.
    ValueError
        For ``repeats`` below 1, a file that ASE cannot read, or a structure outside the domain of the model.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats!r}")
    try:
        atoms = ase.io.read(str(structure), index=-1)
    except OSError:
        raise
    except Exception as e:  # readers of formats raise whatever they meet
        raise ValueError(f"structure must be a file that ASE reads, got {str(structure)!r} ({e!r})") from e
    if not isinstance(atoms, ase.Atoms):
        raise ValueError(f"structure must hold one structure, got {str(structure)!r} with none")
    calculator = Calculator(path)
    atoms.calc = calculator
    calculator.calculate(atoms)
    lines = [f"{len(atoms)} atoms, {calculator.edge_count} edges, {calculator.potential.device}"]
    before = torch.get_num_threads()
    try:
        for n in threads or [before]:
            torch.set_num_threads(n)
            step = _best(lambda: calculator.calculate(atoms), repeats)
            lines.append(
                f"{n} thread(s): {step * 1e3:.2f} ms per step, {step / len(atoms) * 1e6:.2f} µs per atom, "
                f"{step / max(1, calculator.edge_count) * 1e6:.3f} µs per edge"
            )
    finally:
        torch.set_num_threads(before)
    place = calculator.potential.device
    if place.type == "cuda":
        lines.append(f"peak memory of the GPU: {torch.cuda.max_memory_allocated(place) / 2**20:.0f} MiB")
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        lines.append(f"peak memory of the process: {peak:.0f} MiB")
    return "\n".join(lines)


def _best(function: Callable[[], None], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best
