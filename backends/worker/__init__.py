"""Tensor models: a host process with the dynamic batcher, and one process for each instance of the model."""
