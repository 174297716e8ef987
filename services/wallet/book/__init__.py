"""What a batch of commands reads and writes. Knows no rule: :mod:`services.wallet.rules` do."""
