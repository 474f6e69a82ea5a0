"""What a layer or a group looks like under a configuration, kept while it may be asked for again."""
