"""Video autoencoders, one file a family."""
