"""The pipeline from the journal to the views: source -> project -> Valkey; rebuild and verify."""
