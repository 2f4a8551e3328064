"""The worker: one program, deployed once per model, that serves it over gRPC."""
