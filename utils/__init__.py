"""What every agent needs around it: networks, chunks, training, evaluation, checkpoints, logging."""
