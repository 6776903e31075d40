"""The bit-width searches: what is judged, how it is judged early and exactly, and the ways to search."""
