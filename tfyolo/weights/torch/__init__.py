"""PyTorch checkpoints, in."""
