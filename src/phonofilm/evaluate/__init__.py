"""Measuring: a parser of clips, lags of sound against picture, and the report that puts truth, codec and generated side by side."""
