"""Shows: for people, dashboards and trackers. Reads the state and the books; decides nothing.

::

    view         what of a running job is read here
    bookkeeper   enters each step of the round machine into the books, with its spans
    books        what participants report and what has happened
    status       JobStatus: the same figures for terminal, CRD and page
    metrics      Prometheus
    curves       history as columns
    live         the page from second to second
    round_log    log.json and events.jsonl beside a round
    spans        OpenTelemetry
"""
