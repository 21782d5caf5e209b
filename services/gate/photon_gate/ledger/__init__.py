"""The record of everything that crossed the border, for the institution's data-protection officer.

::

    entries  one line: what crossed, when, and whether it was allowed; chained to the line before
    book     appends, so that a line is on the disk whole or not at all
    verify   reads all months and checks the chain
    show     the ledger on a terminal
"""
