"""Long jobs with everything that goes wrong outside a friendly test.

hostile.py   a participant that is enrolled and sends the worst that it can
patient.py   an honest one that outlives what happens to store and aggregator
scene.py     the store, the aggregator's process and its clock, each of which a test may disturb
job.py       the job in which all of it happens, and the undisturbed one with the same accepted updates
"""
