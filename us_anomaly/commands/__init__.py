"""One module per command: load, build, fit, save."""
