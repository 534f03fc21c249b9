"""What one can hold an engine to: lock files, rebuilds, attestations."""
