"""What goes beside a converted network: class names and palettes, and the demo networks with their scenes."""
