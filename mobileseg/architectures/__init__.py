"""One network per file; each exports ``VARIANTS``."""
