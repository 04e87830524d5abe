"""The pipeline from the journal to the views: source -> project -> Valkey, and rebuild."""
