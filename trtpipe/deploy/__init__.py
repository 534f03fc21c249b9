"""The way out: bundles are written, checked and served from."""
