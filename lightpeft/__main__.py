"""`python -m lightpeft`: the same as the command `lightpeft`."""

from lightpeft.cli import main

if __name__ == "__main__":
    main()
