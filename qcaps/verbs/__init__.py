"""One Python call per verb: load, work, write, report."""
