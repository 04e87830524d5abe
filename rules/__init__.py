"""The loyalty rules: program, state, decide. Pure: no clock, no I/O; both sides run the same functions."""
