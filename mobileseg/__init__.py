"""Real-time segmentation checkpoints to files that phones run, proven equal to the checkpoint."""

__version__ = "0.1.0"
