"""Path of the shipped example data set."""

from __future__ import annotations

from pathlib import Path

FILE_NAME = "example.hdf5"


def example_path() -> Path:
    """Return the path of the shipped example data set, an HDF5 file in SPICE's layout.

    About a thousand conformations of 102 molecules like those of several SPICE subsets, labeled with GFN2-xTB
    (not SPICE's level of theory): enough to try every command and to train a toy potential.

    Examples
    --------
    >>> example_path().name
    'example.hdf5'
    """
    return Path(__file__).with_name(FILE_NAME)
