"""Layers that networks and fusions share."""
