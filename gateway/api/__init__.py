"""HTTP: read views, health, metrics, the live stream. No decisions of its own."""

from gateway.api.app import Looks, create_app
from gateway.api.server import bind, serve

__all__ = ["Looks", "bind", "create_app", "serve"]
