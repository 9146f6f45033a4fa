"""Protocol, registry, types, model file and evaluation of a potential."""
