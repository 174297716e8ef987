"""How the product is run: the local runner, the broker, monitoring, the Stripe sandbox."""
