"""Products with constant float32 matrices on a CPU: packed at export, activations in the kernel's epilogue."""
