-- Runs once, when the server's volume is new. The database `dagster` is made by POSTGRES_DB.
CREATE DATABASE lake OWNER cryptotrace;
