"""What may happen to wallets: one function for each command, on the open book."""
