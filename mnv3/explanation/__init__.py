"""Explanations: arrays in, arrays out."""
