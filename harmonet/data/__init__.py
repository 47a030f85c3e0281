"""Travelling heads: reading, checking, grids, patches, splits and simulation."""
