"""``python -m atrous.cli``: the command line where the package is not installed."""

from atrous.cli import main

main()
