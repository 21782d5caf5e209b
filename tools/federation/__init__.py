"""A hub and institutions as their people run them: processes of the ``photon`` command, folders and keys of their own.

::

    places    an institution or a hub: its folder, its network, its commands
    story     a job across them, step by step
"""
