"""Ways to lay out travelling heads on disk, one per file.

Each has a `find(root)` that yields an `Acquisition`, or the `DataError` that says why there is none; no image is read.
"""
