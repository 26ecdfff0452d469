"""Generators: text to latents, one file a family."""
