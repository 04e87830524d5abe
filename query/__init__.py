"""The read side: views that CDC keeps, hot standbys behind them; never the primary but as a counted last resort."""
