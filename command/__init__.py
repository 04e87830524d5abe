"""The write side: http -> request -> lane -> store -> load -> batch -> rules.decide -> record."""
