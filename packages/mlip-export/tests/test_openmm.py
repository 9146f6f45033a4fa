"""The OpenMM force against the ASE calculator: values, particles, boxes, contexts, serialization, dynamics."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms

openmm = pytest.importorskip("openmm")
from openmm import app, unit  # noqa: E402

from mlip_export.ase import Calculator  # noqa: E402
from mlip_export.openmm import EV, force  # noqa: E402

FORCE = unit.kilojoule_per_mole / unit.nanometer


def system_of(atoms, *forces):
    """A System of the atoms' masses and box, with forces."""
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    if atoms.pbc.all():
        system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) / 10 for row in atoms.cell.array))
    for added in forces:
        system.addForce(added)
    return system


def context_of(system, positions, integrator=None):
    """A context of the Reference platform, in double precision, at positions in Å."""
    integrator = integrator or openmm.VerletIntegrator(0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions / 10)
    return context


def values(context):
    """Energy, kJ/mol, and forces, kJ/mol/nm."""
    state = context.getState(energy=True, forces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    return energy, state.getForces(asNumpy=True).value_in_unit(FORCE)


def check_equal(context, atoms, calculator):
    """Equality with the ASE calculator."""
    reference = atoms.copy()
    reference.calc = calculator
    energy, forces = values(context)
    assert energy == pytest.approx(reference.get_potential_energy() * EV, rel=1e-9)
    np.testing.assert_allclose(forces, reference.get_forces() * EV * 10, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", ["molecule", "box", "triclinic"])
def test_equals_the_ase_calculator(water_pt2, make_water, case):
    atoms = make_water(2 if case == "molecule" else 3)
    if case == "molecule":
        atoms.pbc = False
    if case == "triclinic":  # in OpenMM's reduced form
        tilted = atoms.cell.array.copy()
        tilted[1, 0], tilted[2, 0], tilted[2, 1] = 1.1, -0.9, 0.7
        atoms.set_cell(tilted, scale_atoms=True)
    symbols = atoms.get_chemical_symbols()
    context = context_of(
        system_of(atoms, force(water_pt2, symbols, periodic=case != "molecule")), atoms.positions
    )
    check_equal(context, atoms, Calculator(water_pt2))


def test_a_committee_is_the_mean_of_its_members(water_pt2, second_pt2, make_water):
    atoms, paths = make_water(2), [water_pt2, second_pt2]
    added = force(paths, atoms.get_chemical_symbols(), periodic=True)
    calculator = Calculator(paths)
    check_equal(context_of(system_of(atoms, added), atoms.positions), atoms, calculator)
    calculator.calculate(atoms)
    found, expected = added.computation.spread, calculator.spread
    assert found.energy == pytest.approx(expected.energy * EV, rel=1e-7)
    np.testing.assert_allclose(found.forces, expected.forces * EV * 10, rtol=1e-7)


def test_some_particles(water_pt2, make_water):
    atoms = make_water(2)
    atoms.pbc = False
    chosen = [4, 3, 5, 12, 13, 14]
    system = system_of(atoms, force(water_pt2, atoms.get_chemical_symbols(), particles=chosen))
    energy, forces = values(context_of(system, atoms.positions))
    part = atoms[chosen]
    part.calc = Calculator(water_pt2)
    assert energy == pytest.approx(part.get_potential_energy() * EV, rel=1e-9)
    np.testing.assert_allclose(forces[chosen], part.get_forces() * EV * 10, rtol=0, atol=1e-6)
    others = np.setdiff1d(np.arange(len(atoms)), chosen)
    assert not forces[others].any()


def test_contexts_share_a_force(water_pt2, make_water):
    atoms, other = make_water(2), make_water(2, seed=5)
    system = system_of(atoms, force(water_pt2, atoms.get_chemical_symbols(), periodic=True))
    contexts = [context_of(system, a.positions) for a in (atoms, other)]
    for _ in range(2):
        for context, a in zip(contexts, (atoms, other), strict=True):
            check_equal(context, a, Calculator(water_pt2))


def test_a_serialized_system_gives_the_same_values(water_pt2, make_water):
    atoms = make_water(2)
    system = system_of(atoms, force(water_pt2, atoms.get_chemical_symbols(), periodic=True))
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    check_equal(context_of(again, atoms.positions), atoms, Calculator(water_pt2))


def test_topologies_give_elements_and_the_box(water_pt2, make_water):
    atoms = make_water(2)
    topology = app.Topology()
    chain = topology.addChain()
    for symbol in atoms.get_chemical_symbols():
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), topology.addResidue("UNK", chain))
    assert not force(water_pt2, topology).usesPeriodicBoundaryConditions()
    topology.setPeriodicBoxVectors([openmm.Vec3(*row) / 10 for row in atoms.cell.array])
    made = force(water_pt2, topology)
    assert made.usesPeriodicBoundaryConditions()
    check_equal(context_of(system_of(atoms, made), atoms.positions), atoms, Calculator(water_pt2))
    topology.addAtom("M", None, topology.addResidue("UNK", chain))
    with pytest.raises(ValueError, match=r"particles must have elements, got particles \[24\]"):
        force(water_pt2, topology)
    assert force(water_pt2, topology, particles=range(24)).getParticles() == tuple(range(24))


def test_energy_is_conserved(water_pt2, make_water):
    atoms = make_water(2)
    system = system_of(atoms, force(water_pt2, atoms.get_chemical_symbols(), periodic=True))
    context = context_of(system, atoms.positions, openmm.VerletIntegrator(0.00005))
    context.setVelocitiesToTemperature(50, 1)

    def total():
        state = context.getState(energy=True)
        kinetic = state.getKineticEnergy()
        return (kinetic + state.getPotentialEnergy()).value_in_unit(unit.kilojoule_per_mole), kinetic

    start, _ = total()
    drift = []
    for _ in range(10):
        context.getIntegrator().step(10)
        drift.append(abs(total()[0] - start))
    exchanged = abs(total()[1].value_in_unit(unit.kilojoule_per_mole))
    assert max(drift) < 0.01 * exchanged


def test_a_barostat_scales_the_box(water_pt2, make_water):
    atoms = make_water(3)
    system = system_of(atoms, force(water_pt2, atoms.get_chemical_symbols(), periodic=True))
    system.addForce(openmm.MonteCarloBarostat(1000, 300, 1))
    context = context_of(system, atoms.positions, openmm.LangevinMiddleIntegrator(300, 10, 0.00005))
    context.getIntegrator().step(20)
    state = context.getState(positions=True, energy=True)
    vectors = np.array(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom))
    assert not np.allclose(vectors, atoms.cell.array)
    moved = Atoms(
        atoms.symbols, state.getPositions(asNumpy=True).value_in_unit(unit.angstrom), cell=vectors, pbc=True
    )
    check_equal(context, moved, Calculator(water_pt2))


@pytest.mark.parametrize(
    ("symbols", "options", "message"),
    [
        (["O", "Xe"], {}, "Xe"),
        (["O", "H"], {"particles": [2]}, r"particles must be indices below 2, got \[2\]"),
        (["O", "H"], {"particles": [-1]}, r"particles must be indices below 2, got \[-1\]"),
        (["O", "H"], {"particles": [1, 1]}, "particles must be distinct"),
        (["O", "H"], {"particles": []}, "particles must be at least one"),
        (["O", "H"], {"skin": -1.0}, "skin"),
    ],
)
def test_bad_arguments_are_named(water_pt2, symbols, options, message):
    with pytest.raises(ValueError, match=message):
        force(water_pt2, symbols, **options)


@pytest.mark.parametrize(
    ("positions", "message"),
    [([[0, 0, 0], [np.nan, 0, 0]], "particles \\[1\\]"), ([[0, 0, 0], [0.05, 0, 0]], "0.05|nearer|closer")],
)
def test_bad_geometries_stop_the_simulation(water_pt2, positions, message):
    atoms = Atoms("OH", [[0, 0, 0], [1, 0, 0]])
    context = context_of(system_of(atoms, force(water_pt2, ["O", "H"])), np.array(positions))
    with pytest.raises(Exception, match=message):
        values(context)
    context.setPositions(atoms.positions / 10)
    check_equal(context, atoms, Calculator(water_pt2))


def test_the_potential_of_openmm_ml(water_pt2, make_water):
    ml = pytest.importorskip("openmmml")
    atoms = make_water(2)
    topology = app.Topology()
    chain = topology.addChain()
    for k in range(8):
        residue = topology.addResidue("HOH", chain)
        for symbol in "OHH":
            topology.addAtom(f"{symbol}{k}", app.Element.getBySymbol(symbol), residue)
    topology.setPeriodicBoxVectors([openmm.Vec3(*row) / 10 for row in atoms.cell.array])
    potential = ml.MLPotential("allegro", model_path=str(water_pt2))
    system = potential.createSystem(topology)
    check_equal(context_of(system, atoms.positions), atoms, Calculator(water_pt2))
    with pytest.raises(
        ValueError, match=r"options of the potential 'allegro' must be among .*, got \['precision'\]"
    ):
        potential.createSystem(topology, precision="single")
    with pytest.raises(ValueError, match="cuda_graph must be False"):
        potential.createSystem(topology, cuda_graph=True)

    classical = system_of(atoms)
    bonds = openmm.HarmonicBondForce()
    for k in range(8):
        bonds.addBond(3 * k, 3 * k + 1, 0.1, 1000.0)
    classical.addForce(bonds)
    for k in (0, 1):
        classical.addConstraint(3 * k, 3 * k + 1, 0.09572)
    mixed = potential.createMixedSystem(topology, classical, [0, 1, 2], interpolate=False)
    assert mixed.getNumConstraints() == 1  # that of the model's particles is gone
    assert mixed.getConstraintParameters(0)[:2] == [3, 4]
    energy, _ = values(context_of(mixed, atoms.positions))
    first = atoms[:3]
    first.calc = Calculator(water_pt2)
    stretch = [atoms.get_distance(3 * k, 3 * k + 1) / 10 - 0.1 for k in range(1, 8)]
    assert energy == pytest.approx(
        first.get_potential_energy() * EV + 500.0 * float(np.square(stretch).sum()), rel=1e-6
    )


def test_threads_are_left_alone(water_pt2):
    before = torch.get_num_threads()
    force(water_pt2, ["O"])
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("first", ["openmmml", "mlip_export.openmmml", "mlip_export._openmmml"])
def test_the_order_of_imports_does_not_matter(first):
    pytest.importorskip("openmmml")
    code = f"import {first}, openmmml; openmmml.MLPotential('allegro', model_path='none.pt2')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
