"""Webhooks: what happens to a user's account, sent to an address of their own.

They are signed as https://www.standardwebhooks.com says, so that libraries check them:
``webhook-id`` is the event, the same however often it is sent, ``webhook-timestamp`` the second
of this try, and ``webhook-signature`` the HMAC-SHA256 of both and the body.
"""
