"""The simulated exchange: a seeded market that speaks Binance's stream and REST protocol, and breaks on request."""
