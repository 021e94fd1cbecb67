"""Watch what is served: counts, drift, alerts. Numbers in, numbers out; knows nothing of HTTP.

monitors = Monitors(folder, rules=FILE or None)      one for a service; references are made in child processes
monitor = monitors.monitor(model, bundle_id, run)    the same one for the same model and bundle
monitor.observe([Observed.of(prediction, given, facts)])
monitor.feedback(is_correct, confidence=0.9); monitor.failed("timeout")
monitor.snapshot(), monitor.alerts(), monitor.report()
"""
