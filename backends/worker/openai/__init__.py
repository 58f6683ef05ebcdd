"""The OpenAI face of tensor models that take texts."""
