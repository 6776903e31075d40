"""Strategies, importance, surgery, recalibration and the search for a smaller network that still sees."""
