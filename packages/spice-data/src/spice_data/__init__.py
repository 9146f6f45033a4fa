"""The SPICE 2 dataset: download, verify, filter, split and stream."""

from spice_data.convert import convert
from spice_data.errors import DataError
from spice_data.example import example_path
from spice_data.hdf5 import SpiceFile, open
from spice_data.molecule import Molecule
from spice_data.records import Batch, Frame
from spice_data.select import Selection, select
from spice_data.split import Split, split
from spice_data.store import Store

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "DataError",
    "Frame",
    "Molecule",
    "Selection",
    "SpiceFile",
    "Split",
    "Store",
    "convert",
    "example_path",
    "open",
    "select",
    "split",
]
