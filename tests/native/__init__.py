"""Tests of the C library as programs see it, and what they share."""
