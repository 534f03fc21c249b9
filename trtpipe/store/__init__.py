"""The content-addressed store below `artifacts/`."""
