"""`python -m rectiseg`."""

from rectiseg.cli import main

main()
