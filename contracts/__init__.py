"""What the services say to each other: requests, replies, events and errors.

Data only. Nothing here opens a connection, and nothing of ours is imported.

* :mod:`contracts.wallet`, :mod:`contracts.catalog`, :mod:`contracts.billing`,
  :mod:`contracts.topup` and :mod:`contracts.gateway` hold one service's vocabulary each;
* :mod:`contracts.errors` holds the errors that cross the wire;
* :mod:`contracts.messages` holds the shapes that all of them share;
* :mod:`contracts.calls` holds how a call looks on the wire, and what an answer means;
* :mod:`contracts.schemas` writes the JSON Schemas into ``docs/schemas``.
"""
