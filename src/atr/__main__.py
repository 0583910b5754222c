"""`python -m atr` is the same as `atr`."""

from atr.cli import main

main()
