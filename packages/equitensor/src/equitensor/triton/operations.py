"""All Triton implementations in one place, with the signatures of the reference."""

from equitensor.triton.contraction import contract, contract_weights
from equitensor.triton.edges import to_atoms, to_basis, to_weights

__all__ = ["contract", "contract_weights", "to_atoms", "to_basis", "to_weights"]
