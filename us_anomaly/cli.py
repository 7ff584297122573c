"""The command line `usad`: one Hydra application per command, and the only place that knows Hydra."""

import sys
