"""What starts runs by observation: new trades in Kafka. And what notices runs that failed."""
