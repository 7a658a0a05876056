"""Does the file compute what the checkpoint computes? Metrics, runners, gates, the report."""
