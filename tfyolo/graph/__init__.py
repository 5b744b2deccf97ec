"""Everything that walks or rewrites a Keras graph."""
