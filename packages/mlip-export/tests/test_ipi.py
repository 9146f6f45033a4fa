"""The calculator as a client of i-PI's socket protocol: ASE's server, and i-PI itself where it is installed."""

import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.socketio import SocketClient, SocketIOCalculator

from mlip_export.ase import Calculator


@pytest.fixture
def name():
    """Of a socket that no other run uses."""
    return f"mlip-export-{uuid.uuid4().hex}"


def run_server(package, atoms, name):
    """Answer whoever listens on the socket until it says EXIT, on a thread."""
    atoms = atoms.copy()
    atoms.calc = Calculator(package)

    def run():
        SocketClient(unixsocket=name, timeout=120).run(atoms, use_stress=True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_energy_forces_and_stress_cross_the_socket(water_pt2, make_water, name):
    atoms, direct = make_water(2, triclinic=True), Calculator(water_pt2)
    generator = np.random.default_rng(0)
    with SocketIOCalculator(unixsocket=name, timeout=120) as server:
        client = run_server(water_pt2, atoms, name)
        for scale in (1.0, 1.0, 0.98):
            atoms.set_cell(atoms.cell.array * scale, scale_atoms=True)
            atoms.positions += 0.01 * generator.normal(size=atoms.positions.shape)
            atoms.calc = server
            energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
            atoms.calc = direct
            assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
            np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=1e-9)
            np.testing.assert_allclose(stress, atoms.get_stress(), rtol=0, atol=1e-11)
    client.join(120)
    assert not client.is_alive()


INPUT = """<simulation verbosity='low'>
  <output prefix='run'>
    <properties stride='1' filename='out'> [ step, conserved{{electronvolt}}, potential{{electronvolt}} ] </properties>
    <properties stride='1' filename='virial'> [ step, virial_md{{ev/ang3}} ] </properties>
    <trajectory stride='1' filename='forces' format='xyz'> forces{{ev/ang}} </trajectory>
    <trajectory stride='1' filename='positions' format='xyz' cell_units='angstrom'> positions{{angstrom}} </trajectory>
  </output>
  <total_steps> 5 </total_steps>
  <prng> <seed> 1 </seed> </prng>
  <ffsocket name='mlip' mode='unix' pbc='false'> <address> {name} </address> </ffsocket>
  <system>
    <initialize nbeads='1'>
      <file mode='xyz'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> 50 </velocities>
    </initialize>
    <forces> <force forcefield='mlip'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 0.1 </timestep> </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 50 </temperature> </ensemble>
  </system>
</simulation>
"""
RUN = """
from ipi.engine.simulation import Simulation
Simulation.load_from_xml(open("input.xml"), request_banner=False).run()
"""


def test_ipi(water_pt2, make_water, name, tmp_path):
    """Five steps of NVE by i-PI: the direct calculator's energies, forces and virial along its trajectory."""
    pytest.importorskip("ipi")
    atoms = make_water(2)
    side = atoms.cell.lengths()[0]
    cell = f"# CELL(abcABC): {side} {side} {side} 90 90 90 positions{{angstrom}} cell{{angstrom}}"
    lines = [f"{a.symbol} {a.x:.12f} {a.y:.12f} {a.z:.12f}" for a in atoms]
    (tmp_path / "init.xyz").write_text("\n".join([str(len(atoms)), cell, *lines]) + "\n")
    (tmp_path / "input.xml").write_text(INPUT.format(name=name))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen([sys.executable, "-c", RUN], cwd=tmp_path, text=True, **pipes)
    try:
        give_up = time.monotonic() + 120
        while not Path(f"/tmp/ipi_{name}").exists() and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.1)
        client = run_server(water_pt2, atoms, name)
        output, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, output
    client.join(60)
    out, virials = (np.loadtxt(tmp_path / f"run.{k}", ndmin=2) for k in ("out", "virial"))
    positions, forces = (frames(tmp_path / f"run.{k}_0.xyz", len(atoms)) for k in ("positions", "forces"))
    assert len(out) == 6 and np.ptp(out[:, 1]) < 0.1 * np.ptp(out[:, 2])
    atoms.calc = Calculator(water_pt2)
    for k in range(6):
        atoms.positions = positions[k]
        assert out[k, 2] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)  # positions have six digits
        np.testing.assert_allclose(forces[k], atoms.get_forces(), rtol=0, atol=1e-3)
        stress = atoms.get_stress()[
            [0, 1, 2, 5, 4, 3]
        ]  # i-PI: xx yy zz xy xz yz of the virial over the volume
        np.testing.assert_allclose(virials[k, 1:], -stress, rtol=0, atol=1e-5)


def frames(path, count):
    """(frames, N, 3) of i-PI's xyz."""
    rows = [line.split()[1:4] for k, line in enumerate(path.read_text().splitlines()) if k % (count + 2) > 1]
    return np.array(rows, dtype=float).reshape(-1, count, 3)
