"""What runs on a rented machine: entrypoint, control server, checks, and timers that end the bill.

:mod:`multitask.machine.protocol` is what a client and a machine say to each other; it imports
nothing but the standard library, so that a client needs nothing else from here.
"""
