"""Moving people across, checking it, and moving them back."""
