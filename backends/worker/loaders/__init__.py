"""What runs a model inside an instance: one file a kind, and what they share."""
