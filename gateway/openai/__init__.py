"""The OpenAI API under /v1, one file an endpoint family."""
