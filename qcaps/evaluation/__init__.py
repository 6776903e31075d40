"""Predictions, what they allow one to claim, cost and latency."""
