"""Suites for CPUs see no GPU: their references and exact comparisons are of the CPU. ``-m gpu`` runs tests on GPUs."""

import os


def pytest_configure(config):
    """Hide GPUs unless tests of GPUs alone were asked for."""
    if config.getoption("markexpr").split()[:1] != ["gpu"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config, items):
    """Count no lines in slow tests: tracing costs a third of their time, and the quick ones reach the floor."""
    if config.pluginmanager.hasplugin("_cov"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker("no_cover")
