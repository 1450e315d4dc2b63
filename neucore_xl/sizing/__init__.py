"""What fits how many GPUs, found out without training."""
