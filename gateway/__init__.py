"""What the world talks to: the OpenAI API, the control plane and the command line."""
