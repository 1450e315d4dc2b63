"""The engines between the loop and the hardware, and how one is chosen."""
