"""Measures of error, one per file."""
