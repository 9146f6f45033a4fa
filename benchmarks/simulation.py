"""LAMMPS on a structure and some ranks, in processes of its own with one thread each."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io.lammpsdata import write_lammps_data


def simulate(atoms: Atoms, template: str, ranks: int, wrapper: Sequence[str] = (), **values: Any) -> str:
    """Run LAMMPS and return what it prints.

    Parameters
    ----------
    atoms : Atoms
        Structure, the file ``data`` of the commands; its element symbols, sorted, are the types.
    template : str
        Commands, in which ``{elements}`` and the names of ``values`` are replaced.
    ranks : int
        Processes.
    wrapper : sequence of str
        A command that runs ``lmp`` as its arguments, on each rank.
    **values
        For the template.

    Raises
    ------
    SystemExit
        With the end of the output of a run that failed.
    """
    elements = sorted(set(atoms.get_chemical_symbols()))
    scripts = Path(sysconfig.get_path("scripts"))
    with tempfile.TemporaryDirectory() as folder:
        write_lammps_data(Path(folder) / "data", atoms, specorder=elements, masses=True, atom_style="atomic")
        (Path(folder) / "in").write_text(template.format(elements=" ".join(elements), **values))
        start = [str(scripts / "mpiexec"), "-n", str(ranks)] if ranks > 1 else []
        command = [*start, *wrapper, str(scripts / "lmp"), "-in", "in", "-log", "none"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return done.stdout
