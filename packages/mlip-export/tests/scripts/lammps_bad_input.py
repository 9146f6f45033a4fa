"""Cases of bad input in one LAMMPS, each followed by a run: JSON of the messages and of the energy after each.

Arguments are input lines, the beginning of a pair_coeff and JSON of model files by case.
"""

import json
import sys

from lammps import lammps

lines, coeff, files = sys.argv[1:]
lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
lmp.commands_string(lines)
lmp.command("run 0")
start = lmp.numpy.extract_atom("x").copy()


def moved(row):
    """Put the second atom elsewhere and run."""
    lmp.numpy.extract_atom("x")[1] = row
    lmp.command("run 1 pre no post no")


cases = {"unknown element": lambda: lmp.command(f"pair_coeff * * {coeff} H Xe")}
cases["not a number"] = lambda: moved(start[1] * float("nan"))
cases["overlap"] = lambda: moved(start[0] + 0.01)
for name, path in json.loads(files).items():
    cases[name] = lambda path=path: lmp.command(f"pair_coeff * * {path} H O")
found = {}
for name, act in cases.items():
    message = None
    try:
        act()
    except Exception as e:
        message = str(e)
    lmp.numpy.extract_atom("x")[: len(start)] = start
    lmp.command("run 0")
    found[name] = [message, lmp.get_thermo("pe")]
print(json.dumps(found))
