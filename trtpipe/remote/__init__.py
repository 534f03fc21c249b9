"""The team's store: transport, signatures, and a pipeline's way to and from it."""
