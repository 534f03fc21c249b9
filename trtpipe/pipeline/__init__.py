"""From a YAML document to a checked and ordered graph of stages."""
