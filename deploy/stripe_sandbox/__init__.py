"""A small stand-in for Stripe, so that the product works with no account and no internet.

It speaks the part of Stripe's v1 API that the product uses, to the official `stripe` library:

    stripe.StripeClient("sk_test_anything", base_addresses={"api": "http://127.0.0.1:12111"})

One file per noun: `payments.py` holds everything that decides about payment intents and charges,
`checkout.py` about checkout sessions, and so on. `routes.py` is the table of all endpoints,
`app.py` the way a request goes through them. No money moves; live keys are refused.
"""
