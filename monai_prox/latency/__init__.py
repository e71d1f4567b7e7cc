"""How long members take on a device: some are measured there, the others predicted."""
