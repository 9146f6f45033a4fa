"""Implementations of the operators, with equal signatures: reference, ATen, C++ in Inductor, Triton."""
