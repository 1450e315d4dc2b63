"""A generated composed-retrieval benchmark in the exact file formats of CIRR and Fashion-IQ."""
