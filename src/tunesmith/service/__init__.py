"""Answer over HTTP: app, keys, limits, batching, worker processes, feedback."""
