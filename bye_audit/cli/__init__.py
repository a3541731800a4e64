"""The command line: each command parses, calls one method of ``Audit`` and prints its result."""
