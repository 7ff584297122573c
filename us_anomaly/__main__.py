"""`python -m us_anomaly`: the same as `usad`, where the folder of scripts is not on the PATH."""

from us_anomaly.cli import main

main()
