"""The Allegro potential: what every EdgeModel has, and the reassociated forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from allegro_model.checks import check_inputs
from allegro_model.config import AllegroConfig
from allegro_model.fold import FoldedAllegro, fold
from allegro_model.forward import Folded, atom_energies
from allegro_model.parameters import Parameters
from allegro_model.tabulate import tabulate


class Allegro(Parameters):
    """The Allegro potential (Musaelian et al., Nat. Commun. 14, 579 (2023); arXiv 2504.16068).

    The energies are those of the published model, evaluated without equivariant features on edges: these are
    linear in each edge's two-body tensor V⁰ = w·Y, so the tensor products can be evaluated once per atom.

    Parameters
    ----------
    config : AllegroConfig
        The architecture.

    Examples
    --------
    >>> import torch
    >>> from allegro_model import Allegro, AllegroConfig
    >>> model = Allegro(AllegroConfig(type_names=["H", "O"], cutoff=4.0, energy_shifts={"H": -1.0, "O": -2.0}))
    >>> no_edges = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.int64)
    >>> model(*no_edges, torch.tensor([1, 0, 0])).tolist()
    [-2.0, -1.0, -1.0]
    """

    model_name = "allegro"

    @property
    def type_names(self) -> tuple[str, ...]:
        """Name of each type."""
        return tuple(self.config.type_names)

    @property
    def elements(self) -> tuple[str, ...]:
        """Element symbol of each type; the name of a type that is no element."""
        return self.config.element_of_types()

    @property
    def cutoff(self) -> float:
        """Largest cutoff, Å."""
        return float(self.config.cutoff)

    @property
    def cutoffs(self) -> Tensor:
        """Cutoff of each ordered pair ``[type of center, type of neighbor]``, (T, T) float64, Å."""
        return torch.tensor(self.config.cutoff_matrix(), dtype=torch.float64)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build from plain data (the fields of :class:`AllegroConfig`); an unknown key is a ``ValueError``."""
        return cls(AllegroConfig.from_dict(config))

    @classmethod
    def cutoffs_of(cls, config: Mapping[str, Any]) -> Tensor:
        """Return the :attr:`cutoffs` of the model that :meth:`from_config` would build, without building it."""
        return torch.tensor(AllegroConfig.from_dict(config).cutoff_matrix(), dtype=torch.float64)

    def to_config(self) -> dict[str, Any]:
        """Return the plain data from which :meth:`from_config` rebuilds this architecture."""
        return self.config.to_dict()

    @torch.no_grad()
    def shift_energies(self, delta: Tensor) -> None:
        """Add ``delta`` (T,) eV, one number per type, to the energy shifts (E0), in the configuration too."""
        shift = torch.as_tensor(delta, dtype=torch.float64, device=self.energy_shifts.device)
        if shift.shape != self.energy_shifts.shape or not bool(shift.isfinite().all()):
            raise ValueError(
                f"delta must be {len(self.type_names)} finite numbers, one per type, got {delta!r}"
            )
        self.energy_shifts.add_(shift)
        self.config = dataclasses.replace(self.config, energy_shifts=self.energy_shifts.tolist())

    def forward(self, edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> Tensor:
        """Compute the energy of each atom.

        Parameters
        ----------
        edge_vectors : Tensor, (E, 3) float64
            From center to neighbor, Å. An edge at or beyond its cutoff contributes exactly nothing; a zero
            vector has no direction and gives NaN.
        edge_index : Tensor, (2, E) int64
            ``[center; neighbor]``, sorted by center.
        types : Tensor, (N,) int64

        Returns
        -------
        Tensor, (N,) float64
            Atom energies, eV.

        Raises
        ------
        TypeError, ValueError
            For a wrong dtype or shape, unsorted or out-of-range ``edge_index``, types out of range, NaN vectors.
            Values are checked in eager mode on the CPU only.
        RuntimeError
            Under ``torch.autocast``: the dtype is the configuration's.
        """
        check_inputs(edge_vectors, edge_index, types, len(self.config.type_names))
        return atom_energies(self.fixed, self.fold(), edge_vectors, edge_index, types)

    def fold(self) -> Folded:
        """Return the weights as the forward pass applies them, see :func:`allegro_model.fold.fold`."""
        return fold(self)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        table = state_dict.get(prefix + "cutoff_table")
        ours = self.cutoffs
        if table is not None and table.shape == ours.shape:
            theirs = table.detach().to("cpu", torch.float64)
            if not torch.allclose(theirs, ours, rtol=1e-6, atol=0.0):
                raise ValueError(
                    f"state_dict must be of a model with this model's cutoffs, {ours.tolist()} Å by pair of types "
                    f"(cutoff and type_cutoffs of AllegroConfig), got {theirs.tolist()}"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def for_inference(self) -> FoldedAllegro:
        """Return an equal module for evaluation only, with the folded weights as constants."""
        return FoldedAllegro(self)

    def tabulated(
        self, tolerance: float, graphs: Iterable[tuple[Tensor, Tensor, Tensor]] = ()
    ) -> tuple[FoldedAllegro, dict[str, Any]]:
        """Return :meth:`for_inference` with the two-body features read from a table, and what was measured of it.

        The table holds a quintic polynomial per interval of the length and ordered pair of types, with two continuous
        derivatives where two meet; forces are the exact derivative of the tabulated energy. Each pair has as many
        intervals as the tolerance takes.

        Parameters
        ----------
        tolerance : float
            Largest difference of a force in float64, eV/Å, at least 1e-9. For a margin on other structures, the
            measured differences are at most a twentieth of it for two atoms of every pair at lengths from near 0 to the
            cutoff (relative for forces above 1 eV/Å), and a quarter for edges and atoms of ``graphs``.
        graphs : iterable of (edge_vectors, edge_index, types)
            More to compare on, with the arguments of :meth:`forward` on the CPU.

        Returns
        -------
        module : FoldedAllegro
            Of this model's dtype, on its device.
        report : dict
            ``tolerance``; ``max_force`` (eV/Å) and ``max_energy`` (eV per atom of the graphs), the largest differences
            found; ``intervals``, the fewest and the most of a pair; ``bytes`` of the tables.

        Raises
        ------
        ValueError
            If the tables do not reach the tolerance with 2,048 intervals per pair, or take more than 256 MiB; for a
            model with ``mlp_dtype``.
        """
        return tabulate(self, tolerance, graphs)
