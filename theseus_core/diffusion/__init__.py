"""Noise schedules, samplers as plain functions over a callable, and guidance."""
