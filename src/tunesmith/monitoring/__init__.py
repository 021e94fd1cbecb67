"""Watch what is served: counts, drift, alerts. Numbers in, numbers out; knows nothing of HTTP."""
