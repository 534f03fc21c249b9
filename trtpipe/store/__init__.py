"""The content-addressed store below `artifacts/`, and what looks after it."""
