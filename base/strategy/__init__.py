"""What may open positions. A strategy sees a view and returns intents; it never touches a client."""
