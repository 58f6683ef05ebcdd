"""A folder on the path of models: what they import by Triton's names lies here, outside of any package."""
