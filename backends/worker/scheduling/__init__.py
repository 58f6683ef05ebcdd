"""Which requests of a model run together, and when: pure, by an injected clock."""
