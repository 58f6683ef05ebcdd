"""Where chunks of documents are kept and found: one file a vector store."""
