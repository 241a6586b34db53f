"""Everything that is not on the data path, as one FastAPI app over two small interfaces."""
