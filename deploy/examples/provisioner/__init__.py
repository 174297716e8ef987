"""A provisioner to start from: see README.md beside this file."""
