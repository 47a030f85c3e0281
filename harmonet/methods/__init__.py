"""Methods that are no networks: baselines that learn from whole volumes and stand in the same tables."""
