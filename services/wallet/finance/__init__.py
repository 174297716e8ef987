"""What finance does to wallets. Imports the ledger, which knows none of it."""
