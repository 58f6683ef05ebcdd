"""Engines: processes that generate tokens behind an OpenAI-compatible HTTP server."""
