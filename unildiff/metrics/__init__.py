"""Image quality metrics under named scoring protocols."""
