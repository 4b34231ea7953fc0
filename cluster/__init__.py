"""Running on clusters: a local one for tests, manifests, and the arithmetic of large sets."""
