"""From the exchange's sockets into Kafka: every trade once, gaps noticed and filled.

connection.py keeps sockets and knows no format; intake.py and ids.py judge frames and know no sockets; filling.py and
repair.py make whole what is missing; process.py puts the parts together.
"""
