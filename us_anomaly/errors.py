"""Everything that a user can do wrong, or that can go wrong around them, as one small tree.

::

    UsadError                    one clear line, no traceback, exit code 1
    ├── SettingsError            a configuration value is wrong; the message quotes the key
    ├── DataError                the data set cannot be used as it lies on disk
    │   └── BadImageError        one image (or mask) cannot be decoded
    ├── ArtifactError            a file of the run directory cannot be used
    │   ├── MissingArtifactError it was not made yet; the message names the command that makes it
    │   └── StaleArtifactError   it was made from something else than what is now in force
    ├── RunDirLockedError        another process is working in the run directory
    ├── WeightsError             pretrained weights cannot be had
    ├── ResourceError            the disk is full, the folder read-only, the memory exhausted
    └── TrainingError            training diverged or learned nothing

A message says what failed, where it looked, what would be right and what to run next.
"""


class UsadError(Exception):
    """Report a fault to the user as one line; the base of every error that the toolkit raises on purpose."""


class SettingsError(UsadError):
    """Report a wrong configuration value; the message quotes the key as it is typed."""


class DataError(UsadError):
    """Report a data set that cannot be used as it lies on disk."""


class BadImageError(DataError):
    """Report one image or mask that cannot be decoded."""


class ArtifactError(UsadError):
    """Report a file of the run directory that cannot be used."""


class MissingArtifactError(ArtifactError):
    """Report an artifact that was not made yet."""


class StaleArtifactError(ArtifactError):
    """Report an artifact that was made from something else than what is now in force."""


class RunDirLockedError(UsadError):
    """Report that another process is working in the run directory."""


class WeightsError(UsadError):
    """Report pretrained weights that cannot be had."""


class ResourceError(UsadError):
    """Report a full disk, a read-only folder or exhausted memory."""


class TrainingError(UsadError):
    """Report training that diverged or learned nothing."""
