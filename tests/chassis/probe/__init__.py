"""A small service for the tests of the chassis: it echoes, counts, notes and fails on demand."""
