"""Pictures: untrusted files to RGB, RGB to tensors."""
