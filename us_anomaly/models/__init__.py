"""The networks: backbones, patch networks, their exact dense form, and the ensemble. They know no files."""
