"""``python -m multitask`` is the ``multitask`` command."""

from multitask.cli import main

if __name__ == "__main__":
    main()
