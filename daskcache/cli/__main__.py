"""``python -m daskcache.cli``."""

from daskcache.cli import main

main()
