"""A worker's host: requests through its scheduler to instances that it keeps running."""
