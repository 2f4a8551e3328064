"""Causal language models of transformers on torch. Only `backend` is imported before a model is loaded."""
