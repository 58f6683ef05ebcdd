"""From files to searchable chunks: parsed and cut apart from everything else, embedded in batches, put into a store."""
