"""What a worker can run: the port, the registry and the backends that come with Headgate."""
