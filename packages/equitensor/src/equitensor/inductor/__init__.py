"""The operations as C++ that Inductor compiles into its own CPU kernels, for torch.compile and AOT Inductor."""
