"""One file per system; ``registry`` maps a row's name to its class."""
