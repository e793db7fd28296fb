"""The only package that knows the exchange's wire: signatures, REST, WebSocket, price cache. Imports only model."""
