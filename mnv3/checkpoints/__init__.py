"""Checkpoints: the object and its folder, reading, downloading, converting, publishing."""
