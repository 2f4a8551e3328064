"""Training of the built-in pair. Only here is torch imported; nothing that serves imports this package."""
