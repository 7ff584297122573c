"""The version of the package, apart from everything so that any module may name it."""

__version__ = "0.7.0"
