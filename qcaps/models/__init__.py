"""The networks, one file each, and the specs they are built from."""
