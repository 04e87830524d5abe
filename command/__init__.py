"""The write side: http -> lane -> decide -> store -> sql."""
