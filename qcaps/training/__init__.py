"""Training: batches, losses, schedules, the loop and its state."""
