"""One experiment: frozen features, training, checkpoints, memory, results."""
