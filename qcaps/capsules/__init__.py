"""Squash, routing, capsule layers, decoders, masking and losses."""
