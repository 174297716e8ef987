"""Papers that a person keeps: receipts as PDF documents, the same for every service.

What stands on one is :class:`chassis.papers.paper.Paper`; :mod:`chassis.papers.drawing` draws it,
and only who imports that needs the library of PDF.
"""
