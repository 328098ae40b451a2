"""Random bad input for every command: each must end in one message, and leave nothing half done.

    python -m tests.fuzz                 everything, with the counts as a table
    python -m tests.fuzz --kind spec 100 --from 40

A case is a function of its kind and number alone, so the number of a failure is all it takes to
see it again.
"""
