"""`python -m backfilld`: the command line, wherever its script is not on the path."""

from backfilld.producers.cli import main

if __name__ == "__main__":
    main()
