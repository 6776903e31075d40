"""Checkpoints of the published systems: read without trusting them, and mapped to the networks of qcaps."""
