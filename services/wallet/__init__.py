"""The wallet: accounts, a double-entry ledger, holds, statements."""
