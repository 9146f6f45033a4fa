"""pair_style allegro against ASE: one and several ranks, virials, hybrids, committees, and every refusal."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lammps import Prism
from ase.io.lammpsdata import write_lammps_data

from mlip_export.ase import Calculator

BAR = 1 / 1.6021765e6  # eV/Å³, with the constant of LAMMPS

HEAD = """
units {units}
atom_style atomic
{newton}
boundary p p p
read_data data
pair_style allegro {settings}
pair_coeff * * {packages} {elements}
"""
PRINTS = """
thermo_style custom step pe ke etotal pxx pyy pzz pxy pxz pyz
thermo_modify format float %20.14g
thermo 1
"""
DUMP = "write_dump all custom dump id type x y z fx fy fz modify format float %22.16g\n"


def head(packages, units="metal", settings="", elements="H O", newton=""):
    packages = " ".join(map(str, packages)) if isinstance(packages, list) else packages
    return HEAD.format(units=units, packages=packages, settings=settings, elements=elements, newton=newton)


def stress_of(thermo, row=0):
    """ASE's stress, eV/Å³, from LAMMPS's pressure of atoms at rest, bar."""
    return np.array([-thermo[k][row] * BAR for k in ("Pxx", "Pyy", "Pzz", "Pyz", "Pxz", "Pxy")])


@pytest.mark.parametrize(
    "ranks, triclinic, settings", [(1, False, ""), (2, True, "edges 50"), (4, False, ""), (4, True, "")]
)
def test_equals_ase(lammps, water_pt2, make_water, ranks, triclinic, settings):
    atoms = make_water(3, triclinic)
    out = lammps(head(water_pt2, settings=settings) + PRINTS + "run 0\n" + DUMP, atoms, ranks)
    atoms.calc = Calculator(water_pt2)
    assert out.thermo["PotEng"][0] == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    forces = np.stack([out.dump[k] for k in ("fx", "fy", "fz")], 1)
    np.testing.assert_allclose(_unrotated(forces, atoms), atoms.get_forces(), rtol=0, atol=1e-8)
    if not triclinic:
        np.testing.assert_allclose(stress_of(out.thermo), atoms.get_stress(), rtol=0, atol=1e-9)


def _unrotated(vectors, atoms):
    """Vectors of LAMMPS's frame (first lattice vector along x) in that of the atoms."""
    return Prism(atoms.cell.array, pbc=True).vector_to_ase(vectors)


def test_ranks_give_one_trajectory(lammps, water_pt2, make_water):
    """200 steps of NVE from one start: equal thermo on 1, 2 and 4 ranks, and with edges in small calls."""
    text = (
        PRINTS
        + "velocity all create 50 12345 loop geom\ntimestep 0.0002\nfix 1 all nve\nthermo 20\nrun 200\n"
        + DUMP
    )
    reference = lammps(head(water_pt2) + text, make_water(3))
    for ranks, settings in ((2, ""), (4, "edges 40")):
        other = lammps(head(water_pt2, settings=settings) + text, make_water(3), ranks)
        for name in reference.thermo:
            np.testing.assert_allclose(other.thermo[name], reference.thermo[name], rtol=1e-8, atol=1e-6)
        for name in ("x", "y", "z"):
            np.testing.assert_allclose(other.dump[name], reference.dump[name], rtol=0, atol=1e-8)


def test_energy_error_scales_as_the_square_of_the_time_step(lammps, water_pt2, make_water):
    errors = []
    for steps in (100, 200):
        text = head(water_pt2) + PRINTS + "min_style cg\nminimize 0 1e-1 50 200\nreset_timestep 0\n"
        text += f"velocity all create 50 7 loop geom\ntimestep {0.02 / steps}\nfix 1 all nve\nrun {steps}\n"
        errors.append(np.std(lammps(text, make_water(2)).thermo["TotEng"]))
    assert 3.5 < errors[0] / errors[1] < 4.5


def test_units_real(lammps, water_pt2, make_water):
    atoms = make_water(2)
    metal = lammps(head(water_pt2) + PRINTS + "run 0\n" + DUMP, atoms)
    real = lammps(head(water_pt2, units="real") + PRINTS + "run 0\n" + DUMP, atoms)
    factor = 23.060549
    assert real.thermo["PotEng"][0] == pytest.approx(metal.thermo["PotEng"][0] * factor, rel=1e-7)
    np.testing.assert_allclose(real.dump["fx"], metal.dump["fx"] * factor, rtol=1e-6, atol=1e-9)
    assert real.thermo["Pxy"][0] * 1.01325 == pytest.approx(metal.thermo["Pxy"][0], rel=1e-4)


def test_per_atom_energies_and_virials(lammps, water_pt2, make_water):
    text = head(water_pt2) + PRINTS
    text += "compute e all pe/atom\ncompute s all stress/atom NULL virial\n"
    text += "compute c all centroid/stress/atom NULL virial\n"
    text += "run 0\nwrite_dump all custom dump id c_e c_s[*] c_c[*] modify format float %22.16g\n"
    atoms = make_water(3)
    outs = [lammps(text, atoms, ranks) for ranks in (1, 2)]
    atoms.calc = Calculator(water_pt2)
    for out in outs:
        np.testing.assert_allclose(out.dump["c_e"], atoms.get_potential_energies(), rtol=0, atol=1e-9)
        order = (1, 2, 3, 6, 5, 4)
        stresses = np.stack([out.dump[f"c_s[{k}]"] for k in order], 1) * BAR / atoms.get_volume()
        np.testing.assert_allclose(stresses, atoms.get_stresses(), rtol=0, atol=1e-10)
        centroid = (
            np.stack([out.dump[f"c_c[{k}]"] for k in range(1, 10)], 1).sum(0) * BAR / atoms.get_volume()
        )
        np.testing.assert_allclose(centroid[[0, 1, 2, 5, 4, 3]], atoms.get_stress(), rtol=0, atol=1e-9)
        np.testing.assert_allclose(centroid[[8, 7, 6]], atoms.get_stress()[3:], rtol=0, atol=1e-9)


def test_the_heat_flux_is_the_time_derivative_of_the_energy_moment(lammps, water_pt2):
    """For a cluster in a vacuum, J = d/dt Σ x_i (E_i + m v²/2): compared with central differences along NVE."""
    generator = np.random.default_rng(3)
    positions = np.stack(np.meshgrid(*[np.arange(2) * 1.5] * 3), -1).reshape(-1, 3)
    atoms = Atoms("OHHOHOHH", positions + 20 + 0.1 * generator.normal(size=(8, 3)), cell=[43.0] * 3, pbc=True)
    text = head(water_pt2)
    text += "compute ke all ke/atom\ncompute pe all pe/atom\ncompute s all centroid/stress/atom NULL virial\n"
    text += "compute j all heat/flux ke pe s\nvelocity all create 2000 5 loop geom\n"
    for k, axis in enumerate("xyz", 1):
        text += f"variable m{k} atom {axis}*(c_ke+c_pe)\ncompute m{k} all reduce sum v_m{k}\n"
    text += (
        "thermo_style custom step c_m1 c_m2 c_m3 c_j[1] c_j[2] c_j[3]\nthermo_modify format float %24.17g\n"
    )
    step = 1e-6
    out = lammps(text + f"thermo 1\ntimestep {step}\nfix 1 all nve\nrun 4\n", atoms)
    for k in (1, 2, 3):
        moment = out.thermo[f"c_m{k}"]
        slope = (moment[3] - moment[1]) / (2 * step)
        assert slope == pytest.approx(out.thermo[f"c_j[{k}]"][2], abs=1e-3)


def test_several_types_of_one_element_and_null(lammps, water_pt2, make_water):
    """Half of the hydrogens are type 3; then a third element that belongs to another style of a hybrid."""
    atoms = make_water(2)
    whole = lammps(head(water_pt2) + PRINTS + "run 0\n" + DUMP, atoms)
    text = head(water_pt2).replace("read_data data", "read_data data extra/atom/types 1\nmass 3 1.008")
    text = text.replace("H O", "H O H").replace(
        "pair_style", "set atom 2 type 3\nset atom 5*6 type 3\npair_style"
    )
    split = lammps(text + PRINTS + "run 0\n" + DUMP, atoms)
    assert split.thermo["PotEng"][0] == pytest.approx(whole.thermo["PotEng"][0], abs=1e-10)


@pytest.mark.parametrize("style", ["hybrid", "hybrid/overlay"])
def test_hybrid_with_null(lammps, water_pt2, make_water, style):
    """Some hydrogens become type 3, which only a Lennard-Jones style knows: the sum of the parts."""
    atoms = make_water(2)
    change = "read_data data extra/atom/types 1\nmass 3 39.9\nset atom 1*6 type 3"
    lj = "pair_coeff {}* 3 lj/cut 0.01 2.0\n"
    both = (
        head(water_pt2)
        .replace("read_data data", change)
        .replace("pair_style allegro", f"pair_style {style} lj/cut 5.0 allegro")
    )
    both = both.replace("pair_coeff * *", "pair_coeff * * allegro").replace("H O\n", "H O NULL\n")
    both += lj.format(1) + PRINTS + "run 0\n" + DUMP
    together = lammps(both, atoms, ranks=2)
    only = (
        "units metal\natom_style atomic\nboundary p p p\n"
        + change
        + "\npair_style lj/cut 5.0\npair_coeff * * 0.0 1.0\n"
    )
    only += "pair_coeff * 3 0.01 2.0\n" + PRINTS + "run 0\n" + DUMP
    rest = atoms[6:]
    rest.calc = Calculator(water_pt2)
    other = lammps(only, atoms)
    expected = other.thermo["PotEng"][0] + rest.get_potential_energy()
    assert together.thermo["PotEng"][0] == pytest.approx(expected, abs=1e-8)
    forces = np.stack([other.dump[k] for k in ("fx", "fy", "fz")], 1)
    forces[6:] += rest.get_forces()
    found = np.stack([together.dump[k] for k in ("fx", "fy", "fz")], 1)
    np.testing.assert_allclose(found, forces, rtol=0, atol=1e-8)


def test_minimize_npt_restart_and_empty_ranks(lammps, water_pt2, make_water):
    atoms = make_water(2)
    text = (
        head(water_pt2)
        + PRINTS
        + "minimize 0 1e-2 20 100\nvelocity all create 50 1 loop geom\ntimestep 0.0002\n"
    )
    text += "fix 1 all npt temp 50 50 0.1 aniso 1 1 1\nrun 5\nwrite_restart again\nrun 5\n" + DUMP
    first = lammps(text, atoms)
    again = "read_restart again\npair_style allegro\n" + f"pair_coeff * * {water_pt2} H O\n" + PRINTS
    again += "fix 1 all npt temp 50 50 0.1 aniso 1 1 1\nrun 5\n" + DUMP
    second = lammps(again, atoms)
    np.testing.assert_allclose(second.thermo["PotEng"], first.thermo["PotEng"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(second.dump["x"], first.dump["x"], rtol=0, atol=1e-9)
    molecule = Atoms("OH2", [[1, 1, 1], [1.96, 1, 1], [0.76, 1.93, 1]], cell=[40, 40, 40], pbc=True)
    out = lammps(head(water_pt2) + PRINTS + "run 1\n", molecule, ranks=4)
    molecule.calc = Calculator(water_pt2)
    assert out.thermo["PotEng"][0] == pytest.approx(molecule.get_potential_energy(), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_committee(lammps, water_pt2, second_pt2, make_water, ranks):
    text = head([water_pt2, second_pt2]) + PRINTS
    text += "fix spread all pair 1 allegro force_spread 0 energy_spread 0\ncompute worst all reduce max f_spread[1]\n"
    text += (
        "run 0\nwrite_dump all custom dump id fx fy fz f_spread[1] f_spread[2] modify format float %22.16g\n"
    )
    atoms = make_water(2)
    out = lammps(text, atoms, ranks)
    atoms.calc = Calculator([water_pt2, second_pt2])
    np.testing.assert_allclose(out.dump["fx"], atoms.get_forces()[:, 0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(out.dump["f_spread[1]"], atoms.calc.spread.forces, rtol=0, atol=1e-9)
    np.testing.assert_allclose(out.dump["f_spread[2]"], atoms.calc.spread.energies, rtol=0, atol=1e-9)
    halt = head([water_pt2, second_pt2]) + PRINTS + "fix spread all pair 1 allegro force_spread 0\n"
    halt += "compute worst all reduce max f_spread\nvariable worst equal c_worst\nfix 1 all nve\n"
    halt += "fix stop all halt 1 v_worst > 0.001 error soft\nthermo_style custom step pe c_worst\nrun 50\n"
    assert lammps(halt, atoms, ranks).thermo["Step"][-1] < 50


def test_a_committee_inside_a_hybrid(lammps, water_pt2, make_water):
    """Hybrid styles ask how much a style communicates before its members are known."""
    atoms = make_water(3)
    style = head([water_pt2] * 8).replace("pair_style allegro", "pair_style hybrid/overlay allegro zero 3")
    style = style.replace("pair_coeff * *", "pair_coeff * * allegro") + "pair_coeff * * zero\n"
    text = PRINTS + "fix spread all pair 1 allegro force_spread 0\ncompute worst all reduce max f_spread\n"
    text += "thermo_style custom step pe c_worst\nthermo_modify format float %20.14g\n"
    text += "fix 1 all nve\ntimestep 0.0001\nrun 2\n" + DUMP
    found = lammps(style + text, atoms, ranks=2)
    alone = lammps(head(water_pt2) + PRINTS + "fix 1 all nve\ntimestep 0.0001\nrun 2\n" + DUMP, atoms)
    np.testing.assert_allclose(found.thermo["PotEng"], alone.thermo["PotEng"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.dump["fx"], alone.dump["fx"], rtol=0, atol=1e-8)
    assert found.thermo["c_worst"].max() < 1e-9


def from_python(script, *arguments, cwd):
    """Run a script of ``scripts/`` with LAMMPS's Python module, without LD_LIBRARY_PATH (F8)."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    command = [sys.executable, str(Path(__file__).parent / "scripts" / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_loading_again_takes_no_memory(plugin, water_pt2, make_water, tmp_path):
    """F3: a thousand pair_coeff commands, ``clear`` and new instances in one process."""
    write_lammps_data(
        tmp_path / "data", make_water(2), specorder=["H", "O"], masses=True, atom_style="atomic"
    )
    done = from_python("lammps_loads.py", head(water_pt2), f"pair_coeff * * {water_pt2} H O", cwd=tmp_path)
    assert float(done.stdout.split()[-1]) < 5


def test_a_failed_command_changes_nothing(plugin, water_pt2, make_water, tmp_path):
    """An error that a Python script caught leaves the pair style as it was; so does a repeated pair_style."""
    atoms = make_water(2)
    write_lammps_data(tmp_path / "data", atoms, specorder=["H", "O"], masses=True, atom_style="atomic")
    lines = head(water_pt2) + "run 0\n"
    done = from_python("lammps_errors.py", lines, f"pair_coeff * * {water_pt2}", cwd=tmp_path)
    *messages, last = done.stdout.splitlines()
    for message in ("got no such file", "H O, got Xe", "edges must be at least 1"):
        assert message in "".join(messages)
    atoms.calc = Calculator(water_pt2)
    assert last.split()[0] == "1" and float(last.split()[1]) == pytest.approx(
        atoms.get_potential_energy(), abs=1e-8
    )


def test_excluded_neighbors(lammps, water_pt2, make_water):
    """A part of an atom's neighbors cannot be left out; a group may be hidden from everything."""
    atoms = make_water(2)
    text = head(water_pt2) + "group some id 1:6\nneigh_modify exclude {}\n" + PRINTS + "run 0\n"
    for pairs in ("group some some", "type 1 2"):
        with pytest.raises(
            RuntimeError,
            match="every neighbor within the cutoff must be in the list, got neigh_modify exclude",
        ):
            lammps(text.format(pairs), atoms)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("count", [1, 2])
def test_excluded_atoms_are_absent(lammps, water_pt2, second_pt2, make_water, ranks, count):
    """What fix gcmc does for a trial deletion: no energy, force, virial or spread of the hidden atoms (F1)."""
    atoms, packages = make_water(2), [water_pt2, second_pt2][:count]
    text = head(packages) + "group some id 1:6\nneigh_modify exclude group some all\n" + PRINTS
    dump = DUMP
    if count > 1:
        text += "fix spread all pair 1 allegro force_spread 0 energy_spread 0\n"
        dump = DUMP.replace("fz modify", "fz f_spread[1] f_spread[2] modify")
    hidden = lammps(text + "run 0\n" + dump, atoms, ranks)
    rest = atoms[6:]
    rest.calc = Calculator(packages)
    assert hidden.thermo["PotEng"][0] == pytest.approx(rest.get_potential_energy(), abs=1e-8)
    forces = np.stack([hidden.dump[k] for k in ("fx", "fy", "fz")], 1)
    np.testing.assert_allclose(stress_of(hidden.thermo), rest.get_stress(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(forces[6:], rest.get_forces(), rtol=0, atol=1e-8)
    np.testing.assert_allclose(forces[:6], 0.0, rtol=0, atol=0)
    if count > 1:
        for name, expected in (("1", rest.calc.spread.forces), ("2", rest.calc.spread.energies)):
            np.testing.assert_allclose(hidden.dump[f"f_spread[{name}]"][:6], 0.0, rtol=0, atol=0)
            np.testing.assert_allclose(hidden.dump[f"f_spread[{name}]"][6:], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("setting", ["", "overlap reject"])
def test_overlapping_trial_insertions_are_rejected(lammps, water_pt2, make_water, setting):
    """fix widom inserts anywhere; an insertion nearer than 0.1 Å has no weight and does not end the run (F2)."""
    atoms = make_water(2)
    widom = "fix w all widom 1 2000 1 29494 1000\nrun 2\n"
    result = lammps(head(water_pt2, settings=setting) + PRINTS + widom, atoms)
    atoms.calc = Calculator(water_pt2)
    assert result.thermo["PotEng"][0] == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    with pytest.raises(RuntimeError, match="overlap"):
        lammps(head(water_pt2, settings="overlap error") + widom, atoms)


def test_an_error_leaves_no_unpacked_package(lammps, water_pt2, tmp_path, monkeypatch):
    folder = tmp_path / "unpacked"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    near = Atoms("HO", [[1, 1, 1], [1, 1, 1.01]], cell=[9, 9, 9], pbc=True)
    with pytest.raises(RuntimeError, match="overlap"):
        lammps(head([water_pt2, water_pt2]) + "run 0\n", near)
    assert list(folder.rglob("*.so")) == []


@pytest.mark.parametrize(
    "change, message",
    [
        ({"packages": "none.pt2"}, "none.pt2 must be a readable .pt2 file, got no such file"),
        ({"packages": "data.pt2"}, "data.pt2 must be a complete .pt2 file"),
        (
            {"packages": "flipped.pt2"},
            "flipped.pt2 must be undamaged, got one whose .* fails its checksum",
        ),
        ({"packages": "model.so"}, "model must be a file ending in .pt2"),
        ({"elements": "H Xe"}, "elements must be among those of .*: H O, got Xe"),
        ({"elements": "H"}, "[Nn]umber of element|one element per atom type"),
        ({"units": "lj"}, "units must be metal or real, got lj"),
        ({"newton": "newton off"}, "newton pair must be on"),
        ({"settings": "chunk 5"}, "keyword must be edges or overlap, got 'chunk'"),
        ({"settings": "edges 0"}, "edges must be at least 1, got 0"),
    ],
)
def test_bad_input(lammps, water_pt2, make_water, tmp_path, change, message):
    content = bytearray(water_pt2.read_bytes())
    (tmp_path / "data.pt2").write_bytes(content[:5000])
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.pt2").write_bytes(content)
    text = head(**({"packages": str(water_pt2)} | change))
    with pytest.raises(RuntimeError, match=message):
        lammps(text + "run 0\n", make_water(2))


def test_code_for_other_processors_is_refused(lammps, water_pt2, changed, make_water):
    with pytest.raises(
        RuntimeError, match="must be compiled for instructions of this processor, got avx1024"
    ):
        lammps(head(changed(water_pt2, isa="avx1024")) + "run 0\n", make_water(2))


def test_bad_geometry_stops_the_run(lammps, water_pt2):
    near = Atoms("HO", [[1, 1, 1], [1, 1, 1.01]], cell=[9, 9, 9], pbc=True)
    with pytest.raises(RuntimeError, match=r"overlap: distance must be at least 0\.1 Angstrom, got 0\.01"):
        lammps(head(water_pt2) + "run 0\n", near)


@pytest.mark.parametrize("ranks", [1, 2])
def test_infinite_positions_stop_the_run(lammps, water_pt2, ranks):
    """Between searches of neighbors, when LAMMPS itself does not look; the atom is named."""
    start = Atoms("HOHO", [[1, 1, 1], [1, 1, 2], [7, 7, 7], [7, 7, 8]], cell=[9, 9, 9], pbc=True)
    text = head(water_pt2) + "neigh_modify every 100 delay 100 check no\ngroup one id 3\n"
    text += "fix 1 all nve\nfix 2 one addforce 1e308 0 0\nrun 5\n"
    with pytest.raises(RuntimeError, match=r"step 1: positions must be finite, got inf .* for atom 3"):
        lammps(text, start, ranks)


def test_what_is_not_finite_stops_the_run(lammps, toy, compiled):
    class Broken(toy):
        """Without forces for edges shorter than 0.6 Å, and without an energy for those shorter than 0.5 Å."""

        def forward(self, edge_vectors, edge_index, types):
            energies = super().forward(edge_vectors, edge_index, types)
            distances = edge_vectors.norm(dim=-1)
            beyond = distances - 0.6  # the square root of zero is a number, infinity times no slope is none
            extra = 1e-3 * (beyond + beyond.abs()).sqrt() + 0.0 * (distances - 0.5).sqrt()
            return energies.index_add(0, edge_index[0], extra)

    path = compiled("broken.pt2", Broken(("H", "O"), 3.5))
    for distance, missing in [
        (1.0, None),
        (0.55, "the force between atoms 3 and 4"),
        (0.4, "the energy of atom 3"),
    ]:
        positions = [[1, 1, 1], [1, 1, 2], [7, 7, 7], [7, 7, 7 + distance]]
        atoms = Atoms("HOHO", positions, cell=[9, 9, 9], pbc=True)
        if missing is None:
            lammps(head(path) + "run 0\n", atoms)
            continue
        with pytest.raises(RuntimeError, match=f"step 0: energies and forces must be finite.* for {missing}"):
            lammps(head(path) + "run 0\n", atoms)


BONDED = """
units metal
atom_style bond
region box block 0 9 0 9 0 9
create_box 2 box bond/types 1 extra/bond/per/atom 1 extra/special/per/atom 2
create_atoms 1 single 1 1 1
create_atoms 2 single 1 1 2
mass 1 1.008
mass 2 15.999
bond_style zero
bond_coeff 1
{special}
create_bonds single/bond 1 1 2
pair_style allegro
pair_coeff * * {package} H O
"""


def test_special_bonds(lammps, water_pt2):
    """Bonded neighbors that LAMMPS would leave out of the list are refused; factors are not applied, and it says so."""
    atoms = Atoms("HO", [[1, 1, 1], [1, 1, 2]], cell=[9, 9, 9], pbc=True)
    atoms.calc = Calculator(water_pt2)

    def run(special):
        return lammps(BONDED.format(special=special, package=water_pt2) + PRINTS + "run 0\n", atoms)

    with pytest.raises(
        RuntimeError, match=r"special_bonds must be lj/coul 1\.0 1\.0 1\.0 .* drops 1-2 neighbors"
    ):
        run("special_bonds lj/coul 0 1 1")
    with pytest.raises(RuntimeError, match="drops 1-4 neighbors"):
        run("special_bonds lj/coul 1 1 0")
    for factor, warned in ((1.0, False), (0.5, True)):
        out = run(f"special_bonds lj/coul {factor} 1 1")
        assert out.thermo["PotEng"][0] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        assert ("1-2 neighbors count in full" in out.text) == warned


def test_classical_terms_on_bonded_molecules(lammps, water_pt2):
    """F12: the recipe of lammps/README.md gives the sum of the parts, without a warning."""
    atoms = Atoms("HO", [[1, 1, 1], [1, 1, 2]], cell=[9, 9, 9], pbc=True)
    atoms.calc = Calculator(water_pt2)
    text = BONDED.format(special="special_bonds lj/coul 0.5 0.5 0.5", package=water_pt2)
    text = text.replace("pair_style allegro", "pair_style hybrid/overlay allegro lj/cut 5.0")
    text = text.replace("pair_coeff * *", "pair_coeff * * allegro") + "pair_coeff * * lj/cut 0.01 2.0\n"
    text += "pair_modify pair lj/cut special lj/coul {} 0 0.5\n" + PRINTS + "run 0\n"
    lj = 4 * 0.01 * (2.0**12 - 2.0**6)
    for factor in (0.0, 0.25):
        out = lammps(text.format(factor), atoms)
        expected = atoms.get_potential_energy() + factor * lj
        assert out.thermo["PotEng"][0] == pytest.approx(expected, abs=1e-8)
        assert "WARNING: pair_style allegro" not in out.text


def test_fix_adapt_scales_energy_forces_and_pressure(lammps, water_pt2, second_pt2, make_water):
    """Thermodynamic integration: λ times everything, of a committee too."""
    atoms = make_water(2)
    for packages in (water_pt2, [water_pt2, second_pt2]):
        plain = lammps(head(packages) + PRINTS + "run 0\n" + DUMP, atoms)
        adapted = "variable s equal 0.25\nfix a all adapt 1 pair allegro scale * * v_s\n"
        scaled = lammps(head(packages) + adapted + PRINTS + "run 0\n" + DUMP, atoms, ranks=2)
        for name in ("PotEng", "Pxx", "Pxy"):
            assert scaled.thermo[name][0] == pytest.approx(0.25 * plain.thermo[name][0], rel=1e-9)
        np.testing.assert_allclose(scaled.dump["fx"], 0.25 * plain.dump["fx"], rtol=0, atol=1e-9)


def test_group_energies_are_refused(lammps, water_pt2, make_water):
    """An energy that is no sum over pairs has no part between two groups."""
    text = head(water_pt2) + "compute g all group/group all\nthermo_style custom step c_g\nrun 0\n"
    with pytest.raises(RuntimeError, match="does not support compute group/group"):
        lammps(text, make_water(2))


SITUATIONS = {
    "bulk": ("OHH" * 8, [True] * 3, 0.0),
    "slab": ("OHH" * 8, [True, True, False], 4.0),
    "wire": ("OHH" * 8, [True, False, False], 4.0),
    "cluster": ("OHH" * 8, [False] * 3, 4.0),
    "small cell": ("OHH", [True] * 3, 0.0),
    "one element": ("O" * 24, [True] * 3, 0.0),
}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_situations_equal_ase(lammps, water_pt2, make_water, situation, ranks):
    """Every kind of boundary and cell: LAMMPS = ASE to 3e-11 eV and 1e-10 eV/Å."""
    symbols, pbc, vacuum = SITUATIONS[situation]
    atoms = make_water(1 if len(symbols) == 3 else 2)
    atoms.symbols[:] = symbols
    atoms.pbc = pbc
    open_axes = [k for k in range(3) if not pbc[k]]
    if open_axes:
        atoms.center(vacuum=vacuum, axis=open_axes)
    boundary = " ".join("p" if p else "f" for p in pbc)
    text = head(water_pt2).replace("boundary p p p", f"boundary {boundary}")
    out = lammps(text + PRINTS + "run 0\n" + DUMP, atoms, ranks)
    atoms.calc = Calculator(water_pt2)
    assert out.thermo["PotEng"][0] == pytest.approx(atoms.get_potential_energy(), abs=3e-11)
    forces = np.stack([out.dump[k] for k in ("fx", "fy", "fz")], 1)
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=1e-10)
