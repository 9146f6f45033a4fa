"""The calculator as a client of i-PI's socket protocol, which ASE's server speaks."""

import threading
import uuid

import numpy as np
import pytest
from ase.calculators.socketio import SocketClient, SocketIOCalculator

from mlip_export.ase import Calculator


@pytest.fixture
def name():
    """Of a socket that no other run uses."""
    return f"mlip-export-{uuid.uuid4().hex}"


def serve(package, atoms, name):
    """Answer whoever listens on the socket until it says EXIT, on a thread."""
    atoms = atoms.copy()
    atoms.calc = Calculator(package)

    def run():
        SocketClient(unixsocket=name, timeout=120).run(atoms, use_stress=True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_energy_forces_and_stress_cross_the_socket(water_package, make_water, name):
    atoms, direct = make_water(2, triclinic=True), Calculator(water_package)
    generator = np.random.default_rng(0)
    with SocketIOCalculator(unixsocket=name, timeout=120) as server:
        client = serve(water_package, atoms, name)
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
