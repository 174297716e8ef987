"""Who has a role, what is done by it, and the guard of the pages for it."""
