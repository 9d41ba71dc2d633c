"""HTTP: read views, health, metrics, the live stream. No decisions of its own."""

from gateway.api.app import Looks, create_app
from gateway.api.server import serve

__all__ = ["Looks", "create_app", "serve"]
