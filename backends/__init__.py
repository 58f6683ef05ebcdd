"""What runs models: engines, workers and remote servers, one file a kind."""
