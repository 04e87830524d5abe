"""`python -m cluster` is the `loyalty` program."""

from cluster.cli import main

if __name__ == "__main__":
    main()
