"""The door: a second port, for institutions that join from elsewhere (photon.protocol.border). Nothing else is served.

::

    opening    the options, checked
    app        routes, errors and bounds put together; the base path
    door       what the routes work with
    guard      who speaks, decided from the headers alone: sessions
    rates      how often an address, an institution, an invitation may ask
    sessions   challenges and sessions, in memory
    roster     who is a member: records in the bucket, and the wishes of access.json
    enrolling  a site's first words: enrollment, session, rotation, leaving
    hub        what the hub signs: hello, membership, tasks, commits
    evidence   what sites signed: verified against their keys, then kept in the bucket
    watch      what goes on beside requests: access.json, members, signatures of commits
    routes     the routes of members
    counts     what was asked and refused, for Prometheus
    errors     why a request is refused
"""
