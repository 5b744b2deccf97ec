"""Everything that reads or rewrites a Keras graph, or what Keras keeps private."""
