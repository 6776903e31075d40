"""The byte room: safe files, checkpoints and the journal; it knows no meaning of codes."""
