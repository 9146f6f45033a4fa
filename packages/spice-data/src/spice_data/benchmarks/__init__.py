"""Benchmark sets: the SPICE test set and TorsionNet500, with their error measures."""

from spice_data.benchmarks.test_set import category, open_test_set, pairwise_energy_error
from spice_data.benchmarks.torsions import (
    BarrierErrors,
    Profile,
    barrier_errors,
    barrier_height,
    read_torsionnet500,
    read_torsions,
)

__all__ = [
    "BarrierErrors",
    "Profile",
    "barrier_errors",
    "barrier_height",
    "category",
    "open_test_set",
    "pairwise_energy_error",
    "read_torsionnet500",
    "read_torsions",
]
