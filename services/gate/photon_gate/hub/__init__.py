"""The hub, as an institution speaks with it: outbound HTTPS, and nothing that it says is believed unsigned.

::

    errors    what a request can meet: away, refused, or a contradiction that ends the gate
    exchange  one request: proxy, certificates, bounds and deadlines
    client    enrollment, sessions, and the requests of a member
    answers   what an answer means: taken, or raised as what went wrong; pure
    checks    whether an answer is what the hub signed; pure
"""
