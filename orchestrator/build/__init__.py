"""Making a stack ready: images, environments, wheels, locks."""
