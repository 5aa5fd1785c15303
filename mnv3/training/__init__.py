"""Training: recipe, data, run, evaluation."""
