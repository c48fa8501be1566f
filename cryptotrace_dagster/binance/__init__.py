"""Binance's market data as it is on the wire: messages, URLs, REST and dump files.

Owns every field letter, path and unit of the exchange; the feed, the history and the checks share it. Stays out:
sockets (feed/connection.py), Kafka, and what is done with a trade.
"""
