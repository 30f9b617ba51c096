"""What each domain and each preset sets, and how settings are resolved."""
