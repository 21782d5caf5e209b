"""Speaks: everything that a request meets, from the connection to the answer.

::

    server        the HTTP server beside the engine, until the job has ended
    app           routes, errors and bounds put together
    door          who, how much and how fast: decided from the headers alone
    connections   how many, and how long one may take
    auth          bearer tokens
    limits        sizes, concurrency, rates
    bodies        bodies read and validated off the loop
    dependencies  what routes ask for
    errors        one body for every failed request
    headers       security headers, compression
    model_urls    presigned URLs of a global model
    history       records of past rounds
    assets        files of the page, in ``web``
    border        the door for other institutions, a port of its own (a room)
    routers       the routes, one module per topic
"""
