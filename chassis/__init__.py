"""How every service runs: database, outbox, inbox, RPC, settings, money, logs, health.

No business nouns. It knows the shapes in :mod:`contracts.messages` and the errors in
:mod:`contracts.errors`, and nothing else of ours.
"""
