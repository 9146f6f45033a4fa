"""Suites for CPUs see no GPU: their references and exact comparisons are of the CPU. ``-m gpu`` runs tests on GPUs."""

import os


def pytest_configure(config):
    """Hide GPUs unless tests of GPUs alone were asked for."""
    if config.getoption("markexpr").split()[:1] != ["gpu"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
