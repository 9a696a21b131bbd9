"""Tests of live events."""
