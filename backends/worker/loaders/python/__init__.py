"""What a `model.py` works with: the classes of Triton's Python backend, under their own names."""
