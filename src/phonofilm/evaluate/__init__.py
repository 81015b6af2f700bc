"""Measuring: a parser of clips, lags of sound behind picture, and a report beside truth and codec."""
