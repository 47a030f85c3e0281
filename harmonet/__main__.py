"""`python -m harmonet` is `harmonet`."""

from harmonet.cli import main

main()
