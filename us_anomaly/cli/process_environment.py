"""The environment variables that torch and the threads of its arithmetic read, set before they do."""

import os

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait for work sleep instead of spinning, or two processes on the same
    "KMP_BLOCKTIME": "0",  # cores would slow each other down many times
    "THP_MEM_ALLOC_ENABLE": "1",  # tensors of 2 MiB and more lie in huge pages where Linux has them: a map of a wide network
    # takes up to 9 % less time, because the system hands out memory once for 512 ordinary pages
}
"""Read when torch is loaded, the last one when it makes its first large tensor."""


def prepare_environment() -> None:
    """Set `ENVIRONMENT`, but for what the user has set."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
