"""Keys, look-ups, and the stages of one run in processes of their own."""
