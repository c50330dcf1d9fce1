"""The network itself: it knows nothing of training, data, devices or parallelism."""
