"""Writing a store by streaming: pieces of bounded size, resumable, renamed into place when complete."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import h5py
import numpy as np

from spice_data.errors import DataError
from spice_data.files import check_target, exclusive, read_json, sync, write_json
from spice_data.records import Block, Frame, check_block
from spice_data.store.layout import CELL, FORMAT, FRAME, MOLECULE, VERSION, Units
from spice_data.store.pieces import Pieces
from spice_data.store.statistics import Statistics

PIECE_BYTES = 64 << 20
JOURNAL = "spice-data-journal"


class _Open(NamedTuple):
    """The molecule being written: what its frames share, its first frame, and the frames so far."""

    key: tuple[Any, ...]
    first_frame: int
    frames: int


class StoreWriter:
    """Write a store frame by frame in bounded memory; a context manager.

    Consecutive frames of equal name, subset, SMILES, charge and atoms are one molecule. The store appears at ``path``
    when the block ends without an error. With ``identity``, an interrupted writer leaves its last checkpoint (every
    64 MiB) beside ``path``, and the next one of the same identity continues from it: ``frames`` says how many of the
    frames are already written.

    Parameters
    ----------
    path : path
        The store to write.
    units : Units
        Units and dtype of what is written; by default Å, eV, eV/Å and float64.
    identity : str, optional
        Text that changes whenever the data would.
    overwrite : bool
        Replace an existing file.
    wait : bool
        Wait if another process is writing the same store, and use what it made from the same identity.
    source : Path, optional
        The file that is read, which is never overwritten.

    Attributes
    ----------
    frames : int
        Number of frames written so far.
    complete : bool
        Whether the store of this identity is already there (only with ``wait``): nothing is left to write.
    statistics : Statistics
        Of the frames so far.
    provenance : dict
        Plain data that is kept in the store.

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is not set, or is the source itself.
    BlockingIOError
        If another process is writing it and ``wait`` is not set.
    DataError
        If no frame was written.
    OSError
        If the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> from spice_data import Frame, Store, StoreWriter
    >>> frame = Frame(np.zeros((1, 3)), np.array([2]), -79.0, np.zeros((1, 3)), name="helium")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with StoreWriter(folder + "/a.store") as writer:
    ...         writer.append(frame)
    ...     with Store(folder + "/a.store") as store:
    ...         len(store), store[0].name
    (1, 'helium')
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        units: Units | None = None,
        identity: str | None = None,
        overwrite: bool = False,
        wait: bool = False,
        source: Path | None = None,
    ) -> None:
        self.path, self.units, self.overwrite = Path(path), units or Units(), overwrite
        self.identity, self.wait, self.source = identity, wait, source
        self._part = self.path.with_name(f".{self.path.name}.part")
        self._journal = self.path.with_name(f".{self.path.name}.journal")
        self._stack = ExitStack()
        self.complete = False
        self.provenance: dict[str, Any] = {}
        self._clear()

    def _clear(self) -> None:
        self._pieces = Pieces(self._part, self.units)
        self.statistics = Statistics()
        self._subsets: dict[str, int] = {}
        self._open: _Open | None = None
        self._periodic = False

    @property
    def frames(self) -> int:
        """Number of frames written so far."""
        return self._pieces.rows["frames"]

    def made_from(self) -> str:
        """Return the hash of identity, units and version that the finished store carries."""
        return hashlib.sha256(repr((VERSION, self.identity, self.units)).encode()).hexdigest()

    def __enter__(self) -> Self:
        if not self.wait:
            check_target(self.path, self.overwrite, self.source)
        with ExitStack() as stack:
            waited = stack.enter_context(exclusive(self.path, self.wait))
            self.complete = self.wait and (waited or not self.overwrite) and self._is_made()
            if not self.complete:
                check_target(self.path, self.overwrite, self.source)
                self._resume()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            try:
                if error is None and not self.complete:
                    self._finish()
            finally:
                if not self.complete and (self.identity is None or not self._journal.exists()):
                    self._discard()

    def _is_made(self) -> bool:
        try:
            with h5py.File(self.path, "r") as file:
                made = json.loads(file["metadata"][()])["made_from"]
        except (OSError, KeyError, ValueError):
            return False
        return self.identity is not None and bool(made == self.made_from())

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)

    def _resume(self) -> None:
        """Continue from the last checkpoint of an interrupted writer of the same identity, or start again."""
        if self.identity is not None and self._part.exists() and self._journal.exists():
            try:
                state = read_json(self._journal, JOURNAL, dict)
                if state["made_from"] == self.made_from():
                    self._pieces.restore(state["pieces"])
                    self._subsets = state["subsets"]
                    key, *rest = state["open"] or ((),)
                    self._open = _Open(tuple(key), *rest) if key else None
                    self.statistics = Statistics.from_json(state["statistics"])
                    return
            except (OSError, RuntimeError, ValueError, KeyError, TypeError):
                pass  # a damaged checkpoint: start again
        self._clear()
        self._discard()

    def append(self, frame: Frame) -> None:
        """Write one frame; its fields must be in the writer's units."""
        self.write(
            Block(
                frame.name,
                frame.subset,
                frame.smiles,
                frame.charge,
                frame.numbers,
                frame.positions[None],
                frame.forces[None],
                np.array([frame.energy]),
                np.array([frame.formation_energy]),
                np.array([frame.source_frame]),
                frame.cell[None],
                frame.stress[None],
                frame.pbc[None],
                np.array([frame.weight]),
            )
        )

    def write(self, block: Block) -> None:
        """Write some frames of one molecule."""
        check_block(block)
        m, n = len(block.energies), len(block.numbers)
        new = self._enter_molecule(block)
        opened = self._open
        assert opened is not None
        rows = np.zeros(m, FRAME)
        rows["start"] = self._pieces.rows["positions"] + n * np.arange(m)
        rows["energy"], rows["formation_energy"] = block.energies, block.formation_energies
        rows["weight"] = 1.0 if block.weights is None else block.weights
        rows["atoms"], rows["molecule"] = n, self._pieces.rows["molecules"]
        counted = opened.frames + np.arange(m)
        rows["source_frame"] = np.where(block.frames < 0, counted, block.frames)
        rows["subset"] = self._subsets.setdefault(block.subset, len(self._subsets))
        self._open = opened._replace(frames=opened.frames + m)
        self._pieces.add("positions", block.positions.reshape(-1, 3))
        self._pieces.add("forces", block.forces.reshape(-1, 3))
        self._pieces.add("atomic_numbers", np.tile(block.numbers.astype(np.uint8), m))
        self._pieces.add("frames", rows)
        self._add_cells(block, m)
        self.statistics.add(block, self.units, new_molecule=new)
        if self._pieces.bytes >= PIECE_BYTES:
            self._checkpoint()

    def _add_cells(self, block: Block, m: int) -> None:
        """Buffer cells, periodic axes and stresses; a piece without any does not store them."""
        cells = np.zeros(m, CELL)
        cells["stress"] = np.nan if block.stresses is None else block.stresses
        if block.cells is not None:
            cells["cell"], cells["pbc"] = block.cells, block.pbc
        self._periodic |= bool(
            cells["cell"].any() or cells["pbc"].any() or not np.isnan(cells["stress"]).all()
        )
        self._pieces.add("cells", cells)

    def _enter_molecule(self, block: Block) -> bool:
        """Open the molecule of ``block`` unless it is open; whether it is new."""
        key = (block.name, block.subset, block.smiles, block.charge, block.numbers.tolist())
        if self._open is not None and self._open.key == key:
            return False
        self._close_molecule()
        self._open = _Open(key, self.frames, 0)
        return True

    def _close_molecule(self) -> None:
        if self._open is None:
            return
        name, smiles = (text.encode() for text in (self._open.key[0], self._open.key[2]))
        row = (self._pieces.rows["text"], self._open.first_frame, self._open.frames, len(name), len(smiles))
        self._pieces.add("molecules", np.array([(*row, self._open.key[3])], MOLECULE))
        self._pieces.add("text", np.frombuffer(name + smiles, np.uint8))
        self._open = None

    def _checkpoint(self) -> None:
        """Write the buffer as one more piece, then the journal."""
        self._flush()
        if self.identity is not None:
            state = {
                "made_from": self.made_from(),
                "pieces": self._pieces.state(),
                "subsets": self._subsets,
                "open": self._open,
                "statistics": self.statistics.to_json(),
            }
            write_json(self._journal, JOURNAL, state)

    def _flush(self) -> None:
        self._pieces.flush(without=() if self._periodic else ("cells",))
        self._periodic = False

    def _finish(self) -> None:
        self._close_molecule()
        if self.frames == 0:
            raise DataError(self.source or self.path, "have at least one frame to convert", "none")
        self._flush()
        metadata = {
            "pieces": self._pieces.written,
            "checksums": self._pieces.checksums,
            "subsets": list(self._subsets),
            "statistics": self.statistics.to_json(),
            "provenance": self.provenance,
            "made_from": self.made_from(),
        }
        attributes = {
            "format": FORMAT,
            "format_version": VERSION,
            "length_units": self.units.length,
            "energy_units": self.units.energy,
            "force_units": self.units.force,
        }
        self._pieces.finish(json.dumps(metadata), attributes)
        os.replace(self._part, self.path)
        sync(self.path.parent)
        self._journal.unlink(missing_ok=True)
