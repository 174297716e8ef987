"""Reading what the old program wrote: exactly, or not at all."""
