"""Networks: their tables, layers and descriptions."""
