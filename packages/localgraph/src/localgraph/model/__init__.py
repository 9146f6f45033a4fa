"""What a potential is: protocol, registry, types of atoms, model file, evaluation of one structure."""
