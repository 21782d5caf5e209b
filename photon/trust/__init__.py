"""Who signed what: keys of installations and signed statements. Pure but for key files.

::

    errors        why something is not believed
    keys          Ed25519 keys, their ids and fingerprints, and the file with the private one
    rotation      another key in a key's file, with those before it beside
    envelope      a signed payload (DSSE), in its one spelling
    statements    what is signed: one model a kind, with bounds
    certificates  TLS of a hub without a public certificate: its own authority
    log           what happened at a hub's door: entries, each linked to all before
    members       who is a participant: append-only records and their fold
"""
