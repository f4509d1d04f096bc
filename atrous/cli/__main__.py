"""``python -m atrous.cli``: the command line where the package is not installed."""

from atrous.cli import main

if __name__ == "__main__":  # worker processes import this file too
    main()
