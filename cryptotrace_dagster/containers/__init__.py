"""What only the containers need: preparing the volumes, where runs are executed, the Docker socket's gate, health.

The product itself does not know that it runs in containers; nothing outside this room imports it.
"""
