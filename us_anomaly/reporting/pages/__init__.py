"""Static web pages about a run directory: they open from disk, with no server and no network.

`source` holds what they are made of, `drawing` makes the pictures, `records` the data of the two galleries, `overview` the
figures and plots of the first page, `site` writes it all. Nothing of the data set is ever trusted: templates escape, and the
scripts set text, never markup.
"""
