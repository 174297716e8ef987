"""Services that only answer what they were asked: what a call costs by itself."""
