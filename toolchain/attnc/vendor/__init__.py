"""Synthesis tools of others, where they are installed: run on a build, their reports read."""
