"""An OpenAI-compatible gateway in front of engine pools; the packages follow a request's way."""

__version__ = "0.1.0"
