"""The only package that knows the exchange's wire: REST, WebSocket, price cache. Imports only model."""
