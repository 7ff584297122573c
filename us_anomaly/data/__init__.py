"""The data set: layouts on disk, splits, pictures and what is done to them before the network sees them."""
