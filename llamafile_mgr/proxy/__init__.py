"""The HTTP front and its dialects, who may use it, the control channel, and the status page."""
