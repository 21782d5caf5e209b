"""Bytes through the border: the worker reads and writes presigned URLs of the hub, and reaches only this.

::

    grants    what may pass: an id for one URL of an allowed origin; pure
    answers   what the worker is told, so that it means what the store said
    exchange  one connection of the worker, with the connections to stores that it needs
    passing   one GET or PUT, with its size and sha256 checked on the way
    server    listens; a bounded number of connections, each with a deadline
"""
