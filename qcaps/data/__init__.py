"""Data sets, augmentations, and the honest split."""
