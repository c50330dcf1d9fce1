"""From batches to a trained model: the loop, its optimizers, and what is decided before the first step."""
