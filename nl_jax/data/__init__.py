"""Videos to batches; nothing here imports JAX."""
