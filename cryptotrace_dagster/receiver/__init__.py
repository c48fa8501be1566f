"""The Discord double: takes messages as Discord does, keeps them, and fails on request."""
