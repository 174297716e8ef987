"""What a migration would do, before it does anything."""
