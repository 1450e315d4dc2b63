"""One file per system; ``registry`` maps its name to its class."""
