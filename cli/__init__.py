"""The ``qcaps`` command: parse, call the verb, print."""
