"""Decides: ``machine.advance(state, event) -> (state, actions)``. Pure; times come with events.

::

    machine      the dispatch from events to the functions below
    events       what can happen, and what can be asked for: events, actions, notes
    state        the state between two events, frozen; how many updates are a quorum
    steps        a step, and the end of a job
    opening      from a commit to the next plan, or to the end
    assignment   which task a participant gets
    submissions  updates: handed in, admitted, refused; whether one makes the quorum
    closing      when a round closes, and with which updates: grace, deadline, no quorum
    taking       what a round takes: weights, clipping, the digest of its inputs
    presence     heartbeats, evaluations, silent participants
    members      participants that join from elsewhere: who may take part
    waiting      what a job waits for, so that no time runs out meanwhile
    shortage     what a round without its quorum lacks, in words
    stopping     stop conditions
    losses       validation losses that stop conditions remember
    divergence   whether training diverged, and the rollback that answers it
    rollback     what earlier rollbacks mean now: lineage, quarantine, outer scale
    retention    which models stay in the bucket
"""
