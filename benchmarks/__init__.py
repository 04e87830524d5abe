"""Load generator, scenarios, latency targets, reports, and the replay of real shopping history."""
