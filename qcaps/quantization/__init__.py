"""Formats, rounding, bit plans, packing, artifacts and the bit-width searches."""
