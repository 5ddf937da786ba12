"""`python -m metriclog` is the command `metriclog`."""

from metriclog.cli import main

if __name__ == "__main__":
    main()
