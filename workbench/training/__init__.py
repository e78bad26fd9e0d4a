"""What a training step stands on and leaves behind: micro-batches, optimizer, schedule, metrics, checkpoints."""
