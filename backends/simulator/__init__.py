"""The deterministic engine: a simulator of a vLLM server with chosen tokens, pace and faults."""
