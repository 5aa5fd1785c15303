"""Inference: the explained pass in ONNX Runtime or torch, caches, reference gates."""
