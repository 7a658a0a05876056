"""From an `nn.Module` to files: export, exact rewriting, one writer per target."""
