"""Small faults put into the rules, one at a time: does a test notice? `make mutants` asks.

:mod:`mutants.faults` makes the faults, :mod:`mutants.run` tries each on a copy of the repository
against tests of its part, which ``parts.toml`` names and :mod:`mutants.seen` chooses from. A fault
that changes nothing that can be seen is argued for in ``equivalent.toml``.
"""
